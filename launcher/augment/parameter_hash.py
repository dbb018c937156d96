"""A hash of the parameters that augmentation and mixing applied to each image.

`log.samples` writes it beside the sample ids; `launcher verify-resume` compares it. The code that applies the
parameters records them: nothing is drawn a second time.

B images of a batch, D bytes of a hash.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from threading import Lock
from typing import Protocol

import numpy as np

from launcher.augment.arrays import INT64, UINT8, Parameters

ParamHashes = UINT8

HASH_BYTES = 8


class HashRecorder(Protocol):
    """Hashes of the images that the threads of a loader have augmented and whose batches are still to come."""

    def record(self, ids_B: INT64, epoch: int, parameters: Sequence[Parameters]) -> None:
        """`parameters`: those about to be applied, arrays with a row for each image."""

    def take(self, ids_B: INT64, epoch: int) -> ParamHashes:
        """hashes_BD of these images, in this order; forgets them."""


class ParameterHashes:
    """A `HashRecorder` that hashes. `take` gives zeros for images of which nothing was recorded."""

    def __init__(self) -> None:
        # An epoch that wraps has some images twice; the second may be recorded before the first one's batch is taken.
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
        with self._lock:
            taken = [self._take_one((epoch, i)) for i in ids_B.tolist()]
        return np.frombuffer(b"".join(taken), dtype=np.uint8).reshape(len(ids_B), HASH_BYTES)

    def _take_one(self, key: tuple[int, int]) -> bytes:
        recorded = self._hashes.get(key)
        if recorded is None:
            return bytes(HASH_BYTES)
        digest = recorded.popleft()
        if not recorded:
            del self._hashes[key]
        return digest


class NullParameterHashes:
    """A `HashRecorder` that records nothing; its hashes have no bytes."""

    def record(self, ids_B: INT64, epoch: int, parameters: Sequence[Parameters]) -> None:
        pass

    def take(self, ids_B: INT64, epoch: int) -> ParamHashes:
        return np.zeros((len(ids_B), 0), dtype=np.uint8)


def _bytes_of(values: Parameters) -> UINT8:
    """bytes_BN of rows of any shape and type."""
    flat_BN = np.ascontiguousarray(values).reshape(len(values), int(np.prod(values.shape[1:])))
    return flat_BN.view(np.uint8) if flat_BN.size else np.zeros((len(values), 0), dtype=np.uint8)
