"""What becomes of images that cannot be read or decoded: the run fails, or they are left out, named and counted.

B batch.
"""

from __future__ import annotations

import logging
import threading

import numpy as np
import numpy.typing as npt

from launcher.data.order import Ids
from launcher.errors import DataError
from launcher.recipe.schema import Data

Mask = npt.NDArray[np.bool_]

_LOGGER = logging.getLogger("launcher")
_NAMED = 3
"""Images that a message names."""


class Damage:
    """None is let pass."""

    def note(self, sample_id: int, error: DataError) -> None:
        """Told of an image that cannot be read: raise the error."""
        raise error

    def among(self, ids_B: Ids) -> Mask:
        """Which of these have been left out."""
        return np.zeros(len(ids_B), dtype=np.bool_)

    def take_new(self) -> dict[int, str]:
        """What was wrong with each that has been left out since the last call, by its id."""
        return {}


class LeftOut(Damage):
    """Remembers those of one split that are left out, `limit` at most. For several threads."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: dict[int, str] = {}
        self._new: dict[int, str] = {}
        self._lock = threading.Lock()

    def note(self, sample_id: int, error: DataError) -> None:
        """Raise DataError when they have become too many."""
        with self._lock:
            if sample_id in self._messages:
                return
            self._messages[sample_id] = self._new[sample_id] = str(error)
        _LOGGER.warning("left out: %s", error)
        if len(self._messages) > self._limit:
            first = "; ".join(list(self._messages.values())[:_NAMED])
            raise DataError(
                f"{len(self._messages)} images cannot be read, data.max_left_out allows {self._limit}: {first}"
            ) from None

    def among(self, ids_B: Ids) -> Mask:
        return np.isin(ids_B, list(self._messages)) if self._messages else super().among(ids_B)

    def take_new(self) -> dict[int, str]:
        with self._lock:
            new, self._new = self._new, {}
        return new


class HeldBack(Damage):
    """As `damage`, but what ends the work is kept: all processes are to end with it together. For several threads."""

    def __init__(self, damage: Damage) -> None:
        self._damage = damage
        self.error: DataError | None = None
        """The first that ends the work."""

    def note(self, sample_id: int, error: DataError) -> None:
        try:
            self._damage.note(sample_id, error)
        except DataError as final:
            self.error = self.error or final

    def among(self, ids_B: Ids) -> Mask:
        return self._damage.among(ids_B)

    def take_new(self) -> dict[int, str]:
        return self._damage.take_new()


def build_damage(data: Data) -> Damage:
    return LeftOut(data.max_left_out) if data.on_error == "skip" else Damage()
