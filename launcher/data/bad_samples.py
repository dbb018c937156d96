"""Policies for images that cannot be read or decoded: the run fails, or they are skipped, named and counted."""

from __future__ import annotations

import logging
import threading
from typing import Protocol

import numpy as np

from launcher.augment.arrays import BOOL
from launcher.data.ids import Ids
from launcher.errors import DataError
from launcher.recipe.schema import Data

_LOGGER = logging.getLogger("launcher")
_NAMED = 3
"""Number of images that a message names."""


class BadSamples(Protocol):
    """The policy of one split. Thread-safe."""

    def note(self, sample_id: int, error: DataError) -> None:
        """Handle an image that cannot be read. Raise DataError when the run must end."""

    def among(self, ids_B: Ids) -> BOOL:
        """mask_B of those that have been skipped."""
        return np.zeros(len(ids_B), dtype=np.bool_)

    def take_new(self) -> dict[int, str]:
        """Images skipped since the last call: id -> reason."""
        return {}


class FailOnBadSample(BadSamples):
    """Fails on the first unreadable image."""

    def note(self, sample_id: int, error: DataError) -> None:
        raise error


class SkipBadSamples:
    """Skips at most `limit` images of a split."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._messages: dict[int, str] = {}
        self._new: dict[int, str] = {}
        self._lock = threading.Lock()

    def note(self, sample_id: int, error: DataError) -> None:
        with self._lock:
            if sample_id in self._messages:
                return
            self._messages[sample_id] = self._new[sample_id] = str(error)
        _LOGGER.warning("skipped: %s", error)
        if len(self._messages) > self._limit:
            first = "; ".join(list(self._messages.values())[:_NAMED])
            what = f"{len(self._messages)} images cannot be read, data.max_skipped allows {self._limit}"
            raise DataError(f"{what}: {first}") from None

    def among(self, ids_B: Ids) -> BOOL:
        return np.isin(ids_B, list(self._messages))

    def take_new(self) -> dict[int, str]:
        with self._lock:
            new, self._new = self._new, {}
        return new


class DeferBadSample:
    """The policy `inner`, but an error that must end the run is kept in `error`, so that all ranks can end together."""

    def __init__(self, inner: BadSamples) -> None:
        self._inner = inner
        self.among, self.take_new = inner.among, inner.take_new
        self.error: DataError | None = None
        """The first one."""

    def note(self, sample_id: int, error: DataError) -> None:
        try:
            self._inner.note(sample_id, error)
        except DataError as final:
            self.error = self.error or final


def build_bad_sample_policy(data: Data) -> BadSamples:
    return SkipBadSamples(data.max_skipped) if data.on_error == "skip" else FailOnBadSample()
