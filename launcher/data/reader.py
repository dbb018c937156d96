"""The bytes and the label of one image by its id, straight from its place in a tar. Needs no torch."""

from __future__ import annotations

import os
import tarfile
import threading
import time
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from launcher.data.order import Ids
from launcher.errors import DataError
from shards.manifest import MANIFEST_NAME, IndexArray, Manifest, Shard, ShardsError, read_index

MAX_OPEN_SHARDS = 256
"""Open files per split; beyond it the one unused longest is let go. Three splits stay below the usual 1,024."""

_NAME_BYTES = 100
"""Of a member's name at the head of its block in a tar."""

Work = Iterable[tuple[int, Ids]]
"""(view, ids_B) of each batch; id -1 is padding."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image as it lies in its shard. `place`: where it is, for messages."""

    content: bytes
    label: int
    place: str


@dataclass(slots=True)
class Traffic:
    """What one process had from a remote folder. `num_shards`: fetched whole; `num_retries`: answers that failed."""

    num_shards: int = 0
    num_bytes: int = 0
    num_retries: int = 0


class SampleReader(Protocol):
    """Random access to the images of one split. May be used from several threads."""

    @property
    def num_images(self) -> int: ...

    def read(self, sample_id: int) -> Sample:
        """Raise DataError when the image is not there whole, or its label is no class; FetchError when a remote shard
        cannot be had."""

    def name_of(self, sample_id: int) -> str:
        """By which a person finds the image again. Raise DataError, FetchError as `read`."""

    def look_ahead(self, work: Work) -> Iterator[tuple[int, Ids]]:
        """The same work; what it needs from elsewhere is fetched beforehand."""

    def current(self) -> str | None:
        """The image that some thread has been reading for longest; None when none is."""


class OpenShard:
    """A tar and its index. The file closes when the last thread lets go: none can close what another is reading."""

    def __init__(self, descriptor: int, index: IndexArray, let_go: Callable[[int], None] = os.close) -> None:
        self.descriptor = descriptor
        self.index = index
        self.num_bytes = os.fstat(descriptor).st_size
        weakref.finalize(self, let_go, descriptor)


class ShardFolder(Protocol):
    """Where shards come from."""

    traffic: Traffic

    def max_open(self, shards: Sequence[Shard]) -> int:
        """How many of these a reader may keep open."""

    def place(self, shard: Shard) -> str:
        """Where it is, for messages."""

    def damaged(self, shard: Shard, what: str) -> DataError:
        """With what to do next."""

    def open(self, shard: Shard) -> OpenShard:
        """Raise DataError when it is damaged, FetchError when it is remote and not to be had."""

    def look_ahead(self, work: Work, shards_with: Callable[[Ids], list[Shard]]) -> Iterator[tuple[int, Ids]]:
        """The same work, known early enough to fetch what it needs."""

    def arrived(self, shard: Shard) -> str:
        """How much of a shard that is on its way is here, for messages; empty where all of it is."""

    def describe(self) -> str:
        """A line for the start of a run."""


class LocalFolder:
    """Shards on a disk of this machine."""

    def __init__(self, folder: Path, can_be_packed: bool = False) -> None:
        self.folder = folder
        self._advice = "; delete that folder to pack again" if can_be_packed else ""
        self.traffic = Traffic()

    def max_open(self, shards: Sequence[Shard]) -> int:
        return MAX_OPEN_SHARDS

    def place(self, shard: Shard) -> str:
        return f"{self.folder}/{shard.name}"  # joined as paths they would take as long as the read

    def damaged(self, shard: Shard, what: str) -> DataError:
        return DataError(f"{self.place(shard)}: {what}; run 'python -m shards check {self.folder}'")

    def open(self, shard: Shard) -> OpenShard:
        path = self.folder / shard.name
        try:
            index = np.array(read_index(path))  # a copy: the mapped file would stay open
            return OpenShard(os.open(path, os.O_RDONLY), index)
        except ShardsError as error:
            raise DataError(str(error)) from None
        except OSError as error:
            raise self.damaged(shard, f"cannot be opened ({error.strerror})") from None

    def look_ahead(self, work: Work, shards_with: Callable[[Ids], list[Shard]]) -> Iterator[tuple[int, Ids]]:
        return iter(work)

    def arrived(self, shard: Shard) -> str:
        return ""

    def describe(self) -> str:
        packed = time.localtime((self.folder / MANIFEST_NAME).stat().st_mtime)
        return f"shards {self.folder} of {time.strftime('%Y-%m-%d %H:%M', packed)}{self._advice}"


class ShardReader:
    """The images of one split of a folder of shards: a `SampleReader`."""

    def __init__(self, folder: Path | ShardFolder, manifest: Manifest, split: str) -> None:
        self.folder: ShardFolder = LocalFolder(folder) if isinstance(folder, Path) else folder
        self.shards = manifest.shards_of(split)
        self.num_images = manifest.num_images(split)
        self.num_classes = len(manifest.classes)
        self._first_ids = np.cumsum([0, *(shard.num_images for shard in self.shards)])
        self._starts: list[int] = self._first_ids.tolist()
        """The same, as plain numbers: to find one image's shard in these takes a tenth of the time."""
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._max_open = self.folder.max_open(self.shards)
        self._lock = threading.Lock()
        self._reading: dict[int, int] = {}

    def current(self) -> str | None:
        for sample_id in list(self._reading.values())[:1]:
            number = bisect_right(self._starts, sample_id) - 1
            shard = self.shards[number]
            # What has come of it changes while it comes: a slow download is no hang.
            return f"{shard.name}: image {sample_id - self._starts[number]}{self.folder.arrived(shard)}"
        return None

    def read(self, sample_id: int) -> Sample:
        thread = threading.get_ident()
        self._reading[thread] = sample_id
        try:
            return self._read(sample_id)
        finally:
            del self._reading[thread]

    def _read(self, sample_id: int) -> Sample:
        """Raise DataError naming the shard when the image is not there whole, or its label is no class; FetchError."""
        assert 0 <= sample_id < self._first_ids[-1], f"no image {sample_id} among {self._first_ids[-1]}"
        number = bisect_right(self._starts, sample_id) - 1
        row_number = sample_id - self._starts[number]
        shard, opened = self.shards[number], self._shard(number)
        if row_number >= len(opened.index):
            raise self.folder.damaged(shard, f"image {row_number}: its index has only {len(opened.index)} images")
        offset, size, label = opened.index[row_number].tolist()
        if not 0 <= offset <= offset + size <= opened.num_bytes:
            raise self.folder.damaged(shard, f"image {row_number}: the tar is cut off")
        if not 0 <= label < self.num_classes:
            raise self.folder.damaged(shard, f"image {row_number}: label {label} is none of {self.num_classes} classes")
        try:
            content = os.pread(opened.descriptor, size, offset)
        except OSError as error:
            raise self.folder.damaged(shard, f"image {row_number}: cannot be read ({error.strerror})") from None
        return Sample(content, label, f"{self.folder.place(shard)}: image {row_number}")

    def shard_of(self, sample_id: int) -> str:
        """Name of its tar."""
        return self.shards[bisect_right(self._starts, sample_id) - 1].name

    def name_of(self, sample_id: int) -> str:
        """`test-00003.tar/bees-0000017.jpg`: its tar, and its name there, of which the first 100 bytes.

        Raise DataError, FetchError as `read`.
        """
        number = bisect_right(self._starts, sample_id) - 1
        shard, opened = self.shards[number], self._shard(number)
        offset = int(opened.index[sample_id - self._starts[number]]["offset"])
        try:
            header = os.pread(opened.descriptor, _NAME_BYTES, offset - tarfile.BLOCKSIZE)
        except OSError as error:
            raise self.folder.damaged(shard, f"cannot be read ({error.strerror})") from None
        return f"{shard.name}/{header.partition(bytes(1))[0].decode(errors='replace')}"

    def look_ahead(self, work: Work) -> Iterator[tuple[int, Ids]]:
        """The same work; where shards are remote, those that it needs are fetched beforehand."""
        return self.folder.look_ahead(work, self._shards_with)

    def _shards_with(self, ids_B: Ids) -> list[Shard]:
        """In the order of their first use."""
        numbers = self._numbers(np.maximum(ids_B, 0)).tolist()
        return [self.shards[number] for number in dict.fromkeys(numbers)]

    def _numbers(self, ids: int | Ids) -> npt.NDArray[np.intp]:
        return np.searchsorted(self._first_ids, ids, side="right") - 1

    def _shard(self, number: int) -> OpenShard:
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        opened = self.folder.open(self.shards[number])  # outside of the lock: meanwhile the other threads read on
        with self._lock:
            self._open[number] = opened
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return opened
