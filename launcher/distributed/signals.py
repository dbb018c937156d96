"""Signals that ask a run to stop: a handler only sets a flag, which the training looks at between two steps."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed", b"\0tune\0")
"""In the command of a parent whose end is to be followed; the last is `launcher tune`'s, as a word of its own."""

ECHO_S = 5.0
"""SLURM signals torchrun and its workers alike, and torchrun passes it on: within this time it is the same signal."""


class StopRequest:
    """`wanted` is the name of the signal that came, or None. The same signal again, later, ends the process at once.

    At once: also in an exchange with processes that are gone, where no handler of Python's would run.
    """

    def __init__(self) -> None:
        self.wanted: str | None = None
        _watch()
        for number in SIGNALS:
            if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has said to ignore it
                signal.signal(number, self._ask)

    def is_wanted(self) -> bool:
        return self.wanted is not None

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.wanted = signal.Signals(number).name


def follow_launcher() -> None:
    """Be asked to stop when `accelerate launch` or `torchrun` ends.

    Both die of SIGUSR1 and leave their processes running; for one process `accelerate launch` passes no signal on.
    """
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if sys.platform == "linux" and parent.exists() and any(name in parent.read_bytes() for name in LAUNCHERS):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _watch() -> None:
    """Let a thread hear of every signal: Python writes its number into a pipe the moment it comes."""
    global _pipe
    hears, tells = os.pipe()
    os.set_blocking(tells, False)
    signal.set_wakeup_fd(tells, warn_on_full_buffer=False)
    if _pipe is not None:
        os.close(_pipe)  # which ends the thread before this one
    _pipe = tells
    threading.Thread(target=_end_at_second, args=(hears,), name="signals", daemon=True).start()


_pipe: int | None = None


def _end_at_second(hears: int) -> None:
    """Leave when a signal comes again that is no echo. What is half written is not looked at by those who read."""
    first_s: dict[int, float] = {}
    while numbers := os.read(hears, 64):
        now_s = time.monotonic()
        for number in set(numbers) & set(SIGNALS):
            if now_s - first_s.setdefault(number, now_s) > ECHO_S:
                os._exit(128 + number)
    os.close(hears)
