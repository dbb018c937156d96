"""The bytes and the label of an image by its id, read from its place in a tar. Needs no torch."""

from __future__ import annotations

import os
import tarfile
import threading
import time
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np

from launcher.data.ids import Ids, Work
from launcher.errors import DataError
from shards.manifest import MANIFEST_NAME, IndexArray, Manifest, Shard, ShardsError, read_index

MAX_OPEN_SHARDS = 256
"""Open files per split; the least recently used is closed first. Three splits stay below the usual limit of 1,024."""


@dataclass(frozen=True, slots=True)
class Sample:
    """An image as stored. `place`: where it is, for messages."""

    content: bytes
    label: int
    place: str


@dataclass(slots=True)
class Traffic:
    """Downloads of one process. `num_shards`: whole ones; `num_retries`: requests that failed."""

    num_shards: int = 0
    num_bytes: int = 0
    num_retries: int = 0


class SampleReader(Protocol):
    """Random access to the images of one split. May be used from several threads."""

    @property
    def num_images(self) -> int: ...

    def read(self, sample_id: int) -> Sample:
        """Raise DataError when the image is missing or incomplete, or its label is not a class.

        Raise FetchError when a remote shard cannot be fetched.
        """

    def name_of(self, sample_id: int) -> str:
        """A name by which a person finds the image. Raise DataError or FetchError as `read`."""

    def look_ahead(self, work: Work) -> Iterator[tuple[int, Ids]]:
        """The same work; remote shards that it needs are fetched ahead."""

    def current(self) -> str | None:
        """The image that some thread has been reading for longest, for messages; None when none is read."""


class OpenShard:
    """A tar and its index. The file closes with the last reference, so no thread closes what another is reading."""

    def __init__(self, descriptor: int, index: IndexArray, close: Callable[[int], None] = os.close) -> None:
        self.descriptor = descriptor
        self.index = index
        self.num_bytes = os.fstat(descriptor).st_size
        weakref.finalize(self, close, descriptor)


class ShardFolder(Protocol):
    """The shards of a manifest, on a local disk or at a URL."""

    traffic: Traffic

    def max_open(self, shards: Sequence[Shard]) -> int:
        """Number of these shards that a reader may keep open."""
        return MAX_OPEN_SHARDS

    def place(self, shard: Shard) -> str:
        """Path or URL of the shard, for messages."""

    def damage(self, shard: Shard, what: str) -> DataError:
        """The error about a damaged shard, with what to do next."""

    def open(self, shard: Shard) -> OpenShard:
        """Raise DataError when the shard is damaged, FetchError when it cannot be fetched."""

    def look_ahead(self, work: Work, shards_with: Callable[[Ids], list[Shard]]) -> Iterator[tuple[int, Ids]]:
        """The same work; the shards that it needs are fetched ahead."""
        return iter(work)

    def describe_download(self, shard: Shard) -> str:
        """Progress of a shard's download, for messages; empty where none is running."""
        return ""

    def describe(self) -> str:
        """A line for the start of a run."""


class LocalFolder(ShardFolder):
    """Shards on a local disk, of which none is downloaded."""

    def __init__(self, folder: Path, can_be_packed: bool = False) -> None:
        self.folder = folder
        self._advice = "; delete that folder to pack again" if can_be_packed else ""
        self.traffic = Traffic()

    def place(self, shard: Shard) -> str:
        return f"{self.folder}/{shard.name}"  # joined as paths they would take as long as the read

    def damage(self, shard: Shard, what: str) -> DataError:
        return DataError(f"{self.place(shard)}: {what}; run 'python -m shards check {self.folder}'")

    def open(self, shard: Shard) -> OpenShard:
        path = self.folder / shard.name
        try:
            index = np.array(read_index(path))  # a copy: the mapped file would stay open
            return OpenShard(os.open(path, os.O_RDONLY), index)
        except ShardsError as error:
            raise DataError(str(error)) from None
        except OSError as error:
            raise self.damage(shard, f"cannot be opened ({error.strerror})") from None

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
        self._starts = [0, *accumulate(shard.num_images for shard in self.shards)]
        self._open: OrderedDict[int, OpenShard] = OrderedDict()
        self._max_open = self.folder.max_open(self.shards)
        self._lock = threading.Lock()
        self._reading: dict[int, int] = {}

    def current(self) -> str | None:
        reading = list(self._reading.values())
        if not reading:
            return None
        number, row_number = self._find(reading[0])
        shard = self.shards[number]
        # With its progress, so that a slow download is not taken for a hang.
        return f"{shard.name}: image {row_number}{self.folder.describe_download(shard)}"

    def read(self, sample_id: int) -> Sample:
        thread = threading.get_ident()
        self._reading[thread] = sample_id
        try:
            return self._read(sample_id)
        finally:
            del self._reading[thread]

    def _read(self, sample_id: int) -> Sample:
        assert 0 <= sample_id < self._starts[-1], f"no image {sample_id} among {self._starts[-1]}"
        number, row_number = self._find(sample_id)
        shard, opened = self.shards[number], self._shard(number)
        if row_number >= len(opened.index):
            raise self.folder.damage(shard, f"image {row_number}: its index has only {len(opened.index)} images")
        offset, size, label = opened.index[row_number].tolist()
        if not 0 <= offset <= offset + size <= opened.num_bytes:
            raise self.folder.damage(shard, f"image {row_number}: the tar is truncated")
        if not 0 <= label < self.num_classes:
            what = f"label {label} is not one of {self.num_classes} classes"
            raise self.folder.damage(shard, f"image {row_number}: {what}")
        try:
            content = os.pread(opened.descriptor, size, offset)
        except OSError as error:
            raise self.folder.damage(shard, f"image {row_number}: cannot be read ({error.strerror})") from None
        return Sample(content, label, f"{self.folder.place(shard)}: image {row_number}")

    def shard_of(self, sample_id: int) -> str:
        """The name of its tar."""
        return self.shards[self._find(sample_id)[0]].name

    def name_of(self, sample_id: int) -> str:
        """`test-00003.tar/bees-0000017.jpg`: its tar and the first 100 bytes of its name there."""
        number, row_number = self._find(sample_id)
        shard, opened = self.shards[number], self._shard(number)
        offset = int(opened.index[row_number]["offset"])
        try:
            header = os.pread(opened.descriptor, tarfile.LENGTH_NAME, offset - tarfile.BLOCKSIZE)
        except OSError as error:
            raise self.folder.damage(shard, f"cannot be read ({error.strerror})") from None
        return f"{shard.name}/{header.partition(bytes(1))[0].decode(errors='replace')}"

    def look_ahead(self, work: Work) -> Iterator[tuple[int, Ids]]:
        return self.folder.look_ahead(work, self._shards_with)

    def _shards_with(self, ids_B: Ids) -> list[Shard]:
        """The shards of these images, in the order of their first use."""
        numbers = (self._find(sample_id)[0] for sample_id in np.maximum(ids_B, 0).tolist())
        return [self.shards[number] for number in dict.fromkeys(numbers)]

    def _find(self, sample_id: int) -> tuple[int, int]:
        """Number of the image's shard, and of the image in it."""
        number = bisect_right(self._starts, sample_id) - 1
        return number, sample_id - self._starts[number]

    def _shard(self, number: int) -> OpenShard:
        with self._lock:
            if number in self._open:
                self._open.move_to_end(number)
                return self._open[number]
        opened = self.folder.open(self.shards[number])  # outside of the lock, so that other threads can read meanwhile
        with self._lock:
            self._open[number] = opened
            if len(self._open) > self._max_open:
                self._open.popitem(last=False)
        return opened
