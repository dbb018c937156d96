"""Pictures that cannot be read, among those that a trained network looks at: named, while the others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from launcher.data.bad_samples import Mask
from launcher.data.order import Ids
from launcher.distributed.comm import Comm
from launcher.errors import EXIT_DONE, EXIT_FAILED, DataError, UserError


class NameBadSamples:
    """Keeps what is to be said of pictures that cannot be read, and goes on. For several threads.

    `num_told`: of how many it has been said, over all processes.
    """

    def __init__(self) -> None:
        self.num_told = 0
        self._ids: set[int] = set()
        self._new: list[str] = []
        self._said: set[str] = set()
        self._lock = threading.Lock()

    def note(self, sample_id: int, error: DataError) -> None:
        with self._lock:
            if sample_id not in self._ids:
                self._ids.add(sample_id)
                self._new.append(f"launcher: {error}")

    def report(self, comm: Comm, say: Callable[[str], None]) -> None:
        """Say what has come on any process since this was called last. Called by every process."""
        with self._lock:
            taken, self._new = self._new, []
        for messages in comm.all_gather_object(taken):
            self.num_told += len(messages)
            for message in messages:
                if message not in self._said:  # of a shard that is not there, every picture has the same
                    say(message)
                    self._said.add(message)

    def check_some_can(self, num_images: int) -> None:
        """Raise UserError when it has been said of all of them. Nothing is to be written before, then."""
        if num_images and self.num_told == num_images:
            raise UserError(
                f"{num_images:,} of {num_images:,} pictures cannot be read: nothing is written; name others"
            )

    def describe(self) -> str:
        """What follows the number of the others."""
        return f", {self.num_told:,} more cannot be read" if self.num_told else ""

    @property
    def exit_code(self) -> int:
        return EXIT_FAILED if self.num_told else EXIT_DONE

    def among(self, ids_B: Ids) -> Mask:
        with self._lock:
            return np.isin(ids_B, list(self._ids))

    def take_new(self) -> dict[int, str]:
        return {}
