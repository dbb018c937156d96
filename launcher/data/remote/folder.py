"""Shards at a URL, through a cache on this machine. Needs no torch."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from io import BufferedRandom, BytesIO
from pathlib import Path

import numpy as np

from launcher.data.ids import Ids, Work
from launcher.data.reader import MAX_OPEN_SHARDS, OpenShard
from launcher.data.remote.ahead import NUM_THREADS, look_ahead
from launcher.data.remote.shard_cache import ShardCache, release
from launcher.data.remote.store import RemoteStore
from launcher.errors import DataError, FetchError, UserError
from shards.files import write_atomically
from shards.manifest import INDEX_DTYPE, Manifest, Shard, ShardsError, index_path, read_index

CHUNK_BYTES = 8 << 20
"""Bytes per range request, and so the most that a killed download repeats."""

LEAST_BYTES = 64 << 10
"""Bytes of a request after several failed ones: with an unstable connection, small parts still arrive."""

MAX_HEADER_BYTES = 4096
"""Header of an index, before its rows."""

SHARES = 4
"""Parts of a rank's share of the cache: one for the open shards of each split, one for those fetched ahead."""


class RemoteFolder:
    """The shards of a manifest at a URL: a `ShardFolder`. `num_local`: ranks of this node, which share the cache."""

    def __init__(self, store: RemoteStore, cache: ShardCache, manifest: Manifest, num_local: int) -> None:
        self.traffic = store.traffic
        self._store = store
        self._cache = cache
        self._folder = cache.subfolder(manifest.sha256)
        self._share_bytes = cache.limit_bytes // (SHARES * num_local)
        self._num_local = num_local
        self._failed: dict[str, tuple[float, str]] = {}
        """Shard -> time and message of its last failed download."""

    def max_open(self, shards: Sequence[Shard]) -> int:
        """Raise UserError when the cache is too small for any of them."""
        largest_bytes = max((shard.num_bytes for shard in shards), default=1)
        if largest_bytes > self._share_bytes:
            needed = SHARES * self._num_local * largest_bytes / 2**30
            raise UserError(
                f"data.remote_cache_gib: {self._cache.limit_bytes / 2**30:.3g} is too small for {self._num_local} "
                f"ranks of a node and shards of {largest_bytes / 2**30:.3g} GiB; set at least {needed + 0.001:.3f}"
            )
        return min(self._share_bytes // largest_bytes, MAX_OPEN_SHARDS)

    def place(self, shard: Shard) -> str:
        return self._store.place(shard.name)

    def damage(self, shard: Shard, what: str) -> DataError:
        return DataError(f"{self.place(shard)}: {what}; run 'python -m shards check' where it was packed")

    def describe_download(self, shard: Shard) -> str:
        num_bytes = self._cache.count_downloaded(self._tar(shard), shard.num_bytes)
        return "" if num_bytes is None else f", {num_bytes:,} of {shard.num_bytes:,} bytes downloaded"

    def describe(self) -> str:
        limit_gib = self._cache.limit_bytes / 2**30
        return f"shards {self._store.url}, cached in {self._cache.folder}, at most {limit_gib:.3g} GiB"

    def open(self, shard: Shard) -> OpenShard:
        descriptor, _ = self._hold(shard)
        try:
            return OpenShard(descriptor, np.array(read_index(self._tar(shard))), release)
        except ShardsError as error:
            release(descriptor)
            raise FetchError(str(error)) from None

    def fetch(self, shard: Shard) -> bool:
        """Download a shard into the cache. False: it was there. Raise FetchError."""
        descriptor, is_new = self._hold(shard)
        release(descriptor)
        return is_new

    def fetch_all(self, shards: Sequence[Shard]) -> int:
        """Download these shards into the cache; return the number of those that were not there.

        Raise FetchError, or UserError when they do not all fit.
        """
        self.max_open(shards)
        num_bytes = sum(shard.num_bytes for shard in shards)
        if num_bytes > self._cache.limit_bytes:
            raise UserError(
                f"data.remote_cache_gib: {self._cache.limit_bytes / 2**30:.3g} is too small for all shards; "
                f"set at least {num_bytes / 2**30 + 0.001:.3f}"
            )
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            return sum(pool.map(self.fetch, shards))

    def look_ahead(self, work: Work, shards_with: Callable[[Ids], list[Shard]]) -> Iterator[tuple[int, Ids]]:
        return look_ahead(work, shards_with, self.fetch, self._share_bytes)

    def _tar(self, shard: Shard) -> Path:
        return self._folder / shard.name

    def _hold(self, shard: Shard) -> tuple[int, bool]:
        """An open descriptor of a shard, which is then not removed, and whether it was downloaded just now."""
        start_s = time.monotonic()
        return self._cache.open(self._tar(shard), shard.num_bytes, lambda file: self._complete(shard, file, start_s))

    def _complete(self, shard: Shard, file: BufferedRandom, start_s: float) -> None:
        """Download a shard; a download that has failed since `start_s` is not tried again by each waiting thread."""
        failed_s, why = self._failed.get(shard.name, (-math.inf, ""))
        if failed_s >= start_s:
            raise FetchError(why)
        try:
            self._fetch_index(shard)
            self._fetch_tar(shard, file)
        except FetchError as error:
            self._failed[shard.name] = (time.monotonic(), str(error))
            raise
        self._store.count_shard()

    def _fetch_tar(self, shard: Shard, file: BufferedRandom) -> None:
        """Tries twice: the part that a killed process left may be damaged, and so may the download."""
        what = f"{self.place(shard)}: its sha256 differs from the manifest's"
        for _ in range(2):
            self._append(shard, file)
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() == shard.sha256:
                return
            file.truncate(0)
            self._store.note_retry(what)
        raise FetchError(f"{what}, twice; copy the whole folder there again")

    def _append(self, shard: Shard, file: BufferedRandom) -> None:
        """Download from the end of `file` to the number of bytes in the manifest."""
        while (start := file.seek(0, os.SEEK_END)) < shard.num_bytes:
            part = self._store.read(shard.name, start, min(CHUNK_BYTES, shard.num_bytes - start), LEAST_BYTES)
            if len(part) == shard.num_bytes:  # the whole file: the server knows no range requests
                part = part[start:]
            if start + len(part) > shard.num_bytes:
                what = "is longer than in its manifest; copy the whole folder there again"
                raise FetchError(f"{self.place(shard)}: {what}")
            file.write(part)
            file.flush()

    def _fetch_index(self, shard: Shard) -> None:
        path = index_path(self._tar(shard))
        limit_bytes = MAX_HEADER_BYTES + shard.num_images * INDEX_DTYPE.itemsize
        what = f"{self._store.place(path.name)}: not an index of {shard.num_images} images"
        for _ in range(2):
            content = self._store.read(path.name, 0, limit_bytes)
            if _is_index(content, shard.num_images):
                write_atomically(path, content)
                return
            self._store.note_retry(what)
        raise FetchError(f"{what}, twice; copy it there again")


def _is_index(content: bytes, num_images: int) -> bool:
    try:
        rows = np.load(BytesIO(content), allow_pickle=False)
    except (ValueError, OSError, EOFError, MemoryError):
        return False
    return isinstance(rows, np.ndarray) and rows.dtype == INDEX_DTYPE and rows.shape == (num_images,)
