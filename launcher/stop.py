"""Signals that ask a run to stop: a handler only sets a flag, which the training looks at between two steps."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


class StopRequest:
    """`wanted` is the name of the signal that came, or None. The same signal again ends the process at once."""

    def __init__(self) -> None:
        self.wanted: str | None = None
        for number in SIGNALS:
            signal.signal(number, self._ask)

    def _ask(self, number: int, _frame: FrameType | None) -> None:
        self.wanted = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)
