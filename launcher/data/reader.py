"""The bytes and the label of one image by its id, straight from its place in a tar. Needs no torch."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from launcher.errors import DataError
from shards.manifest import Manifest, ShardsError, read_index

MAX_OPEN_SHARDS = 256
"""Open files per split; beyond it the one unused longest is let go. Three splits stay below the usual 1,024."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image as it lies in its shard. `place`: where it is, for messages."""

    content: bytes
    label: int
    place: str


class _OpenShard:
    """A tar and its index. The file closes when the last thread lets go: none can close what another is reading."""

    def __init__(self, path: Path) -> None:
        try:
            self.index = np.array(read_index(path))  # a copy: the mapped file would stay open
            self.descriptor = os.open(path, os.O_RDONLY)
        except ShardsError as error:
            raise DataError(str(error)) from None
        except OSError as error:
            raise _damaged(path, f"cannot be opened ({error.strerror})") from None
        weakref.finalize(self, os.close, self.descriptor)
        self.num_bytes = os.fstat(self.descriptor).st_size


class ShardReader:
    """Random access to the images of one split. May be used from several threads."""

    def __init__(self, folder: Path, manifest: Manifest, split: str) -> None:
        shards = manifest.shards_of(split)
        self.paths = [folder / shard.name for shard in shards]
        self.num_images = manifest.num_images(split)
        self.num_classes = len(manifest.classes)
        self._first_ids = np.cumsum([0, *(shard.num_images for shard in shards)])
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._lock = threading.Lock()
        self._reading: dict[int, int] = {}

    @property
    def reading(self) -> str | None:
        """Shard and image that some thread has been reading for longest; None when none is."""
        for sample_id in list(self._reading.values())[:1]:
            number = int(np.searchsorted(self._first_ids, sample_id, side="right")) - 1
            return f"{self.paths[number].name}: image {sample_id - int(self._first_ids[number])}"
        return None

    def read(self, sample_id: int) -> Sample:
        """Raise DataError as `_read`; meanwhile `reading` tells of it."""
        thread = threading.get_ident()
        self._reading[thread] = sample_id
        try:
            return self._read(sample_id)
        finally:
            del self._reading[thread]

    def _read(self, sample_id: int) -> Sample:
        """Raise DataError naming the shard when the image is not there whole, or its label is no class."""
        assert 0 <= sample_id < self._first_ids[-1], f"no image {sample_id} among {self._first_ids[-1]}"
        number = int(np.searchsorted(self._first_ids, sample_id, side="right")) - 1
        row_number = sample_id - int(self._first_ids[number])
        path = self.paths[number]
        shard = self._shard(number)
        if row_number >= len(shard.index):
            raise _damaged(path, f"image {row_number}: its index has only {len(shard.index)} images")
        offset, size, label = (int(value) for value in shard.index[row_number])
        if not 0 <= offset <= offset + size <= shard.num_bytes:
            raise _damaged(path, f"image {row_number}: the tar is cut off")
        if not 0 <= label < self.num_classes:
            raise _damaged(path, f"image {row_number}: label {label} is none of {self.num_classes} classes")
        try:
            content = os.pread(shard.descriptor, size, offset)
        except OSError as error:
            raise _damaged(path, f"image {row_number}: cannot be read ({error.strerror})") from None
        return Sample(content, label, f"{path}: image {row_number}")

    def _shard(self, number: int) -> _OpenShard:
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        opened = _OpenShard(self.paths[number])  # outside of the lock: meanwhile the other threads read on
        with self._lock:
            self._open[number] = opened
            if len(self._open) > MAX_OPEN_SHARDS:
                self._open.popitem(last=False)
        return opened


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; run 'python -m shards check {path.parent}'")
