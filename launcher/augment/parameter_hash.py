"""What was really done to each image: a hash of the parameters that augmentation and mixing applied to it.

`log.samples` writes it beside the ids of the samples; `launcher verify-resume` compares it. The parameters are told by
the code that goes on to apply them: nothing is drawn a second time for the record.

B images of a batch, D bytes of a hash.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Sequence
from threading import Lock

import numpy as np
import numpy.typing as npt

from launcher.augment.draw import INT64

Parameters = npt.NDArray[np.generic]
ParamHashes = npt.NDArray[np.uint8]

Record = Callable[[INT64, int, Sequence[Parameters]], None]
"""(ids_B, epoch, what is about to be applied: arrays with a row for each image)."""

HASH_BYTES = 8


def record_nothing(ids_B: INT64, epoch: int, parameters: Sequence[Parameters]) -> None:
    """For whoever does not ask."""


class ParameterHashes:
    """Keeps the hash of each image from when the loader's threads apply parameters until its batch is asked for."""

    def __init__(self) -> None:
        # An epoch that wraps has some images twice, the second perhaps ahead of the first one's batch.
        self._hashes: dict[tuple[int, int], deque[bytes]] = {}
        self._lock = Lock()

    def record(self, ids_B: INT64, epoch: int, parameters: Sequence[Parameters]) -> None:
        rows_BN = np.concatenate([_bytes_of(values) for values in parameters], axis=1) if parameters else None
        with self._lock:
            for number, i in enumerate(ids_B.tolist()):
                row = b"" if rows_BN is None else rows_BN[number].tobytes()
                digest = hashlib.blake2b(row, digest_size=HASH_BYTES).digest()
                self._hashes.setdefault((epoch, i), deque()).append(digest)

    def take(self, ids_B: INT64, epoch: int) -> ParamHashes:
        """hashes_BD of these images, in this order, and forget them; zeros where nothing was told."""
        with self._lock:
            taken = [self._take_one((epoch, i)) for i in ids_B.tolist()]
        return np.frombuffer(b"".join(taken), dtype=np.uint8).reshape(len(ids_B), HASH_BYTES)

    def _take_one(self, key: tuple[int, int]) -> bytes:
        told = self._hashes.get(key)
        if told is None:
            return bytes(HASH_BYTES)
        digest = told.popleft()
        if not told:
            del self._hashes[key]
        return digest


class NullParameterHashes(ParameterHashes):
    """Remembers nothing."""

    def record(self, ids_B: INT64, epoch: int, parameters: Sequence[Parameters]) -> None:
        pass

    def take(self, ids_B: INT64, epoch: int) -> ParamHashes:
        return np.zeros((len(ids_B), 0), dtype=np.uint8)


def _bytes_of(values: Parameters) -> ParamHashes:
    """bytes_BN of rows of any shape and type."""
    flat_BN = np.ascontiguousarray(values).reshape(len(values), int(np.prod(values.shape[1:])))
    return flat_BN.view(np.uint8) if flat_BN.size else np.zeros((len(values), 0), dtype=np.uint8)
