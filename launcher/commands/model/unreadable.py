"""Unreadable images among those that a trained network is used on: each is named once, the others are processed."""

from __future__ import annotations

import threading

import numpy as np

from launcher.augment.arrays import BOOL
from launcher.data.ids import Ids
from launcher.distributed.comm import Comm
from launcher.errors import EXIT_DONE, EXIT_FAILED, DataError, UserError
from launcher.text import Say


class NameBadSamples:
    """Skips unreadable images and collects their errors for `report`. Several threads may call it.

    `num_reported`: images whose error has been reported, over all ranks.
    """

    def __init__(self) -> None:
        self.num_reported = 0
        self._ids: set[int] = set()
        self._new: list[str] = []
        self._shown: set[str] = set()
        self._lock = threading.Lock()

    def note(self, sample_id: int, error: DataError) -> None:
        with self._lock:
            if sample_id not in self._ids:
                self._ids.add(sample_id)
                self._new.append(f"launcher: {error}")

    def report(self, comm: Comm, say: Say) -> None:
        """Show the errors of all ranks since the last call. Called by every rank."""
        with self._lock:
            taken, self._new = self._new, []
        for messages in comm.all_gather_object(taken):
            self.num_reported += len(messages)
            for message in messages:
                if message not in self._shown:  # all images of a missing shard have the same
                    say(message)
                    self._shown.add(message)

    def check_any_readable(self, num_images: int) -> None:
        """Raise UserError when all images were reported. Call it before anything is written."""
        if num_images and self.num_reported == num_images:
            raise UserError(
                f"{num_images:,} of {num_images:,} images cannot be read, nothing is written; choose other images"
            )

    def describe(self) -> str:
        """The end of a line about the other images."""
        return f"; skipped {self.num_reported:,} unreadable images" if self.num_reported else ""

    @property
    def exit_code(self) -> int:
        return EXIT_FAILED if self.num_reported else EXIT_DONE

    def among(self, ids_B: Ids) -> BOOL:
        with self._lock:
            return np.isin(ids_B, list(self._ids))

    def take_new(self) -> dict[int, str]:
        return {}
