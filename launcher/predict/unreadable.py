"""Pictures that cannot be read, among those to be named."""

from __future__ import annotations

import threading

import numpy as np

from launcher.data.damage import Damage, Mask
from launcher.data.order import Ids
from launcher.errors import DataError


class Unreadable(Damage):
    """Keeps what is to be said of pictures that cannot be read, and goes on. For several threads."""

    def __init__(self) -> None:
        self._ids: set[int] = set()
        self._new: list[str] = []
        self._lock = threading.Lock()

    def note(self, sample_id: int, error: DataError) -> None:
        with self._lock:
            if sample_id not in self._ids:
                self._ids.add(sample_id)
                self._new.append(f"launcher: {error}")

    def take_messages(self) -> list[str]:
        """Those that have come since this was asked last."""
        with self._lock:
            taken, self._new = self._new, []
        return taken

    def among(self, ids_B: Ids) -> Mask:
        with self._lock:
            return np.isin(ids_B, list(self._ids)) if self._ids else super().among(ids_B)
