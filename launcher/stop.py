"""Signals that ask a run to stop: a handler only sets a flag, which the training looks at between two steps."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
PR_SET_PDEATHSIG = 1

ECHO_S = 5.0
"""SLURM signals torchrun and its workers alike, and torchrun passes it on: within this time it is the same signal."""


class StopRequest:
    """`wanted` is the name of the signal that came, or None. The same signal again, later, ends the process at once."""

    def __init__(self) -> None:
        self.wanted: str | None = None
        self._first_s: dict[int, float] = {}
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has said to ignore it
                signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.wanted = signal.Signals(number).name
        now_s = time.monotonic()
        if now_s - self._first_s.setdefault(number, now_s) > ECHO_S:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)


def follow_accelerate() -> None:
    """Be asked to stop when `accelerate launch` ends: for one process it passes no signal on, and leaves it running."""
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if sys.platform == "linux" and parent.exists() and b"accelerate" in parent.read_bytes():
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
