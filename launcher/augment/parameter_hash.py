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

    def record(self, ids_B: INT64, view: int, parameters: Sequence[Parameters]) -> None:
        """`parameters`: those about to be applied, arrays with a row for each image."""

    def take(self, ids_B: INT64, view: int) -> ParamHashes:
        """hashes_BD of these images, in this order; forgets them."""


class ParameterHashes:
    """A `HashRecorder` that hashes. `take` gives zeros for images of which nothing was recorded."""

    def __init__(self) -> None:
        # An epoch that wraps has some images twice; the second may be recorded before the first one's batch is taken.
        self._hashes: dict[tuple[int, int], deque[bytes]] = {}
        self._lock = Lock()

    def record(self, ids_B: INT64, view: int, parameters: Sequence[Parameters]) -> None:
        with self._lock:
            for number, i in enumerate(ids_B.tolist()):
                row = b"".join(values[number].tobytes() for values in parameters)
                digest = hashlib.blake2b(row, digest_size=HASH_BYTES).digest()
                self._hashes.setdefault((view, i), deque()).append(digest)

    def take(self, ids_B: INT64, view: int) -> ParamHashes:
        taken = b""
        with self._lock:
            for i in ids_B.tolist():
                recorded = self._hashes.pop((view, i), deque([bytes(HASH_BYTES)]))
                taken += recorded.popleft()
                if recorded:
                    self._hashes[view, i] = recorded
        return np.frombuffer(taken, dtype=np.uint8).reshape(len(ids_B), HASH_BYTES)


class NullParameterHashes:
    """A `HashRecorder` that records nothing; its hashes have no bytes."""

    def record(self, ids_B: INT64, view: int, parameters: Sequence[Parameters]) -> None:
        pass

    def take(self, ids_B: INT64, view: int) -> ParamHashes:
        return np.zeros((len(ids_B), 0), dtype=np.uint8)
