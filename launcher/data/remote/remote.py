"""Shards on another machine, through a cache on this one: a `ShardFolder`. Needs no torch."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedRandom, BytesIO
from pathlib import Path

import numpy as np

from launcher.data.order import Ids
from launcher.data.reader import MAX_OPEN_SHARDS, OpenShard, Work
from launcher.data.remote.ahead import NUM_THREADS, look_ahead
from launcher.data.remote.origin import RemoteStore, UnreachableError
from launcher.data.remote.shard_cache import ShardCache, let_go
from launcher.errors import DataError, FetchError, UserError
from shards.manifest import (
    INDEX_DTYPE,
    MANIFEST_NAME,
    Manifest,
    Shard,
    ShardsError,
    index_path,
    read_index,
    read_manifest,
    write_atomically,
)

CHUNK_BYTES = 8 << 20
"""Of a request. What a killed download has to fetch again is at most so much."""

LEAST_BYTES = 64 << 10
"""Of a request after several that failed: a line that is cut again and again still brings something."""

MAX_MANIFEST_BYTES = 256 << 20
MAX_HEAD_BYTES = 4096
"""Of an index, before its rows."""

LEAST_IMAGE_BYTES = 1024
"""In a tar: a header, and a block of data."""

KNOWN_TRIES = 3
"""For a manifest that is here from before: nodes without a network start soon."""

SHARES = 4
"""A process may hold as many parts of its share of the cache: one for each split, one for what is to come."""

_NAME = re.compile(r"\w[\w.+=@,() -]*\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_LOGGER = logging.getLogger("launcher")


def fetch_manifest(origin: RemoteStore, cache: ShardCache) -> Manifest:
    """The manifest at a URL; the one that was there last when the URL cannot be reached, which is said.

    Raise UserError or ShardsError when there is none, or none that can be trusted.
    """
    cache.subfolder("manifests")
    folder = cache.subfolder(f"manifests/{hashlib.sha256(origin.url.encode()).hexdigest()}")
    path = folder / MANIFEST_NAME
    is_known = path.is_file() and not path.is_symlink()
    try:
        content = origin.read(MANIFEST_NAME, 0, MAX_MANIFEST_BYTES + 1, max_tries=KNOWN_TRIES if is_known else None)
    except FetchError as error:
        if not (is_known and isinstance(error, UnreachableError)):
            raise UserError(str(error)) from None
        _LOGGER.warning("%s; its manifest of an earlier time is used", error)
    else:
        if len(content) > MAX_MANIFEST_BYTES:
            raise UserError(f"{origin.place(MANIFEST_NAME)}: is over {MAX_MANIFEST_BYTES >> 20} MiB, and no manifest")
        _keep(cache, path, content)
    try:
        manifest = read_manifest(folder)
    except ShardsError as error:
        raise ShardsError(str(error).replace(str(folder), origin.url)) from None
    except RecursionError:
        raise ShardsError(f"{origin.place(MANIFEST_NAME)}: nested too deep for a manifest") from None
    _check_manifest(manifest, origin)
    return manifest


def _keep(cache: ShardCache, path: Path, content: bytes) -> None:
    try:
        with cache.locked():  # processes that start together write the same
            if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be kept ({error.strerror}); set data.remote_cache") from None


def _check_manifest(manifest: Manifest, origin: RemoteStore) -> None:
    """Raise UserError when it is not one of shards beside it: it comes from outside, and names files and sizes."""
    try:
        what = next((what for shard in manifest.shards if (what := _find_wrong(shard))), None)
        if len({shard.name for shard in manifest.shards}) < len(manifest.shards):
            what = "a shard is in it twice"
        for split in manifest.splits:
            if sum(shard.num_images for shard in manifest.shards_of(split)) != manifest.num_images(split):
                what = what or f"its shards of {split} do not have the images that its classes have"
    except TypeError as error:
        what = str(error)
    if what is not None:
        raise UserError(f"{origin.place(MANIFEST_NAME)}: {what}; pack with 'python -m shards', copy the whole folder")


def _find_wrong(shard: Shard) -> str | None:
    if not _NAME.fullmatch(shard.name):
        return f"{shard.name!r} is no name for a shard"
    if not _SHA256.fullmatch(shard.sha256):
        return f"{shard.name}: {shard.sha256!r} is no sha256"
    if not all(isinstance(number, int) for number in (shard.num_images, shard.num_bytes)):
        return f"{shard.name}: {shard.num_images!r} images in {shard.num_bytes!r} bytes are no numbers"
    if not (0 <= shard.num_images * LEAST_IMAGE_BYTES <= shard.num_bytes and shard.num_bytes > 0):
        return f"{shard.name}: {shard.num_images} images in {shard.num_bytes} bytes cannot be"
    return None


class RemoteFolder:
    """The shards of a manifest at a URL. `num_local`: processes of this node, which share the cache."""

    def __init__(self, origin: RemoteStore, cache: ShardCache, manifest: Manifest, num_local: int) -> None:
        self.traffic = origin.traffic
        self._origin = origin
        self._cache = cache
        self._folder = cache.subfolder(manifest.sha256)
        self._share_bytes = cache.limit_bytes // (SHARES * num_local)
        self._num_local = num_local
        self._failed: dict[str, tuple[float, str]] = {}
        """Shard -> when it could not be had, and why."""

    def max_open(self, shards: Sequence[Shard]) -> int:
        """Raise UserError when the cache is too small for any of them."""
        largest_bytes = max((shard.num_bytes for shard in shards), default=1)
        if largest_bytes > self._share_bytes:
            needed = SHARES * self._num_local * largest_bytes / 2**30
            raise UserError(
                f"data.remote_cache_gib: {self._cache.limit_bytes / 2**30:.3g} is too little for {self._num_local} "
                f"processes of a node and shards of {largest_bytes / 2**30:.3g} GiB; set at least {needed + 0.001:.3f}"
            )
        return min(self._share_bytes // largest_bytes, MAX_OPEN_SHARDS)

    def place(self, shard: Shard) -> str:
        return self._origin.place(shard.name)

    def damaged(self, shard: Shard, what: str) -> DataError:
        return DataError(f"{self.place(shard)}: {what}; run 'python -m shards check' where it was packed")

    def arrived(self, shard: Shard) -> str:
        num_bytes = self._cache.count_arrived(self._tar(shard), shard.num_bytes)
        return "" if num_bytes is None else f", {num_bytes:,} of {shard.num_bytes:,} bytes here"

    def describe(self) -> str:
        limit_gib = self._cache.limit_bytes / 2**30
        return f"shards {self._origin.url}, kept in {self._cache.folder}, no more than {limit_gib:.3g} GiB"

    def open(self, shard: Shard) -> OpenShard:
        descriptor, _ = self._hold(shard)
        try:
            return OpenShard(descriptor, np.array(read_index(self._tar(shard))), let_go)
        except ShardsError as error:
            let_go(descriptor)
            raise FetchError(str(error)) from None

    def fetch(self, shard: Shard) -> bool:
        """Bring it into the cache. False: it was there. Raise FetchError."""
        descriptor, is_new = self._hold(shard)
        let_go(descriptor)
        return is_new

    def fetch_all(self, shards: Sequence[Shard]) -> int:
        """Bring all of them into the cache, and count those that were not there.

        Raise FetchError, or UserError when not all have room.
        """
        self.max_open(shards)
        num_bytes = sum(shard.num_bytes for shard in shards)
        if num_bytes > self._cache.limit_bytes:
            raise UserError(
                f"data.remote_cache_gib: {self._cache.limit_bytes / 2**30:.3g} is too little for all shards; "
                f"set at least {num_bytes / 2**30 + 0.001:.3f}"
            )
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return sum(pool.map(self.fetch, shards))

    def look_ahead(self, work: Work, shards_with: Callable[[Ids], list[Shard]]) -> Iterator[tuple[int, Ids]]:
        return look_ahead(work, shards_with, self.fetch, self._share_bytes)

    def _tar(self, shard: Shard) -> Path:
        return self._folder / shard.name

    def _hold(self, shard: Shard) -> tuple[int, bool]:
        began_s = time.monotonic()
        return self._cache.open(self._tar(shard), shard.num_bytes, lambda file: self._complete(shard, file, began_s))

    def _complete(self, shard: Shard, file: BufferedRandom, began_s: float) -> None:
        """What could not be had is not tried again by each thread that waited for it since `began_s`; later it is."""
        failed_s, why = self._failed.get(shard.name, (-math.inf, ""))
        if failed_s >= began_s:
            raise FetchError(why)
        try:
            self._fetch_index(shard)
            self._fetch_tar(shard, file)
        except FetchError as error:
            self._failed[shard.name] = (time.monotonic(), str(error))
            raise
        self._origin.count_shard()

    def _fetch_tar(self, shard: Shard, file: BufferedRandom) -> None:
        """Twice at most: what a process that was killed has left may be damaged, and so may what comes."""
        for _ in range(2):
            self._append(shard, file)
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                return
            file.truncate(0)
            self._origin.note_retry(f"{self.place(shard)}: not the sha256 of its manifest")
        raise FetchError(
            f"{self.place(shard)}: not the sha256 of its manifest, twice; copy the whole folder there again"
        )

    def _append(self, shard: Shard, file: BufferedRandom) -> None:
        """From where it ends to the number of bytes that the manifest has."""
        while (start := file.seek(0, os.SEEK_END)) < shard.num_bytes:
            part = self._origin.read(shard.name, start, min(CHUNK_BYTES, shard.num_bytes - start), LEAST_BYTES)
            if len(part) == shard.num_bytes:
                part = part[start:]
            if start + len(part) > shard.num_bytes:
                raise FetchError(
                    f"{self.place(shard)}: is longer than its manifest says; copy the whole folder there again"
                )
            file.write(part)
            file.flush()

    def _fetch_index(self, shard: Shard) -> None:
        path = index_path(self._tar(shard))
        limit_bytes = MAX_HEAD_BYTES + shard.num_images * INDEX_DTYPE.itemsize
        for _ in range(2):
            content = self._origin.read(path.name, 0, limit_bytes)
            if _is_index(content, shard.num_images):
                write_atomically(path, content)
                return
            self._origin.note_retry(f"{self._origin.place(path.name)}: not the index of {shard.num_images} images")
        raise FetchError(
            f"{self._origin.place(path.name)}: not the index of {shard.num_images} images, twice; copy it there again"
        )


def _is_index(content: bytes, num_images: int) -> bool:
    try:
        rows = np.load(BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError):
        return False
    return isinstance(rows, np.ndarray) and rows.dtype == INDEX_DTYPE and rows.shape == (num_images,)
