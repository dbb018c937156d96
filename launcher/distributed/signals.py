"""Signals that ask a run to stop: a handler only sets a flag, which training reads between two steps."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
PR_SET_PDEATHSIG = 1
LAUNCHERS = (b"accelerate", b"torchrun", b"torch.distributed", b"\0tune\0")
"""Words in the command line of a parent process that this one must not outlive; the last is `launcher tune`."""

ECHO_S = 5.0
"""A signal that comes again within this time is the same one: SLURM signals torchrun and its workers alike, and
torchrun passes it on to them."""


def install_signal_handlers() -> Callable[[], bool]:
    """Handle SIGNALS in this process: the first asks it to stop; the same one again, ECHO_S later, ends it at once.

    It ends even inside a collective with ranks that are gone, where no Python handler would run.
    Return the function that tells whether a signal has asked this process to stop.
    """
    is_requested = False

    def request_stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal is_requested
        is_requested = True

    _end_at_second_signal()
    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # `nohup` ignores it
            signal.signal(number, request_stop)
    return lambda: is_requested


def follow_launcher() -> None:
    """Have the kernel send SIGTERM to this process when its `accelerate launch` or `torchrun` ends.

    Both die of SIGUSR1 and leave their processes running; with one process `accelerate launch` forwards no signal.
    """
    parent = Path(f"/proc/{os.getppid()}/cmdline")
    if sys.platform == "linux" and parent.exists() and any(name in parent.read_bytes() for name in LAUNCHERS):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


_wakeup_pipe: int | None = None
"""Write end of the pipe to which Python's C handler writes the number of each signal; one per process."""


def _end_at_second_signal() -> None:
    """Start the thread that ends this process at the second signal; an earlier such thread ends."""
    global _wakeup_pipe
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    if _wakeup_pipe is not None:
        os.close(_wakeup_pipe)  # the earlier thread reads its end
    _wakeup_pipe = writing
    threading.Thread(target=_listen, args=(reading,), name="signals", daemon=True).start()


def _listen(reading: int) -> None:
    """End the process at the second signal. It may end anywhere: readers ignore files that are half written."""
    first_s: dict[int, float] = {}
    while numbers := os.read(reading, 64):
        now_s = time.monotonic()
        for number in set(numbers) & set(SIGNALS):
            if now_s - first_s.setdefault(number, now_s) > ECHO_S:
                os._exit(128 + number)
    os.close(reading)
