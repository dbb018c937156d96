"""Where this process is: written by the training, read by the heartbeat's thread. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

At = tuple[str, int, bool]
"""Phase, optimizer step, and whether it waits there for other processes."""


class Pulse:
    """A phase is entered by assigning a new `at`, without a lock: 0.1 us. A new tuple is progress, equal or not.

    `readers`: tell what is being read, if anything.
    """

    def __init__(self) -> None:
        self.at: At = ("prepare", 0, False)
        self.readers: list[Callable[[], str | None]] = []

    @property
    def place(self) -> str | None:
        """What has been read for longest and is not there yet."""
        places = (reading() for reading in self.readers)
        return next((place for place in places if place is not None), None)

    def enter(self, phase: str) -> None:
        """The same step in another phase."""
        self.at = (phase, self.at[1], False)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what ends when other processes have come there, too."""
        phase, step, waits = self.at
        self.at = (phase, step, True)
        yield
        self.at = (phase, step, waits)
