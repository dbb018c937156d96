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
    """`signal`: name of the signal that asked this process to stop, or None."""

    def __init__(self) -> None:
        self.signal: str | None = None

    def __call__(self) -> bool:
        return self.signal is not None


def install_signal_handlers() -> StopRequest:
    """Take over SIGNALS for this process: the first asks it to stop, the same one again, later, ends it at once.

    At once: also inside an exchange with ranks that are gone, where no handler of Python's would run.
    """
    request = StopRequest()

    def ask(number: int, _frame: FrameType | None) -> None:
        request.signal = signal.Signals(number).name

    _end_at_second_signal()
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has said to ignore it
            signal.signal(number, ask)
    return request


def follow_launcher() -> None:
    """Be asked to stop when `accelerate launch` or `torchrun` ends.

    Both die of SIGUSR1 and leave their processes running; for one process `accelerate launch` passes no signal on.
    """
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if sys.platform == "linux" and parent.exists() and any(name in parent.read_bytes() for name in LAUNCHERS):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


_wakeup_pipe: int | None = None
"""The writing end that Python puts each signal's number into the moment it comes; one for the process."""


def _end_at_second_signal() -> None:
    """Start a thread that ends the process when a signal comes for the second time."""
    global _wakeup_pipe
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    if _wakeup_pipe is not None:
        os.close(_wakeup_pipe)  # which ends the thread before this one
    _wakeup_pipe = writing
    threading.Thread(target=_listen, args=(reading,), name="signals", daemon=True).start()


def _listen(reading: int) -> None:
    """Readers of files ignore what is half written, so the process may end anywhere."""
    first_s: dict[int, float] = {}
    while numbers := os.read(reading, 64):
        now_s = time.monotonic()
        for number in set(numbers) & set(SIGNALS):
            if now_s - first_s.setdefault(number, now_s) > ECHO_S:
                os._exit(128 + number)
    os.close(reading)
