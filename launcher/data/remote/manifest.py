"""The manifest at a URL: fetched, kept for starts without a network, and checked before it is trusted. No torch."""

from __future__ import annotations

import hashlib
import logging
import re
from pathlib import Path

from launcher.data.remote.shard_cache import ShardCache
from launcher.data.remote.store import RemoteStore, UnreachableError
from launcher.errors import FetchError, UserError
from shards.files import write_atomically
from shards.manifest import MANIFEST_NAME, Manifest, Shard, ShardsError, read_manifest

MAX_MANIFEST_BYTES = 256 << 20

LEAST_IMAGE_BYTES = 1024
"""Bytes of an image in a tar, at least: a header and a block of data."""

KNOWN_TRIES = 3
"""Tries where an earlier manifest is cached: nodes without a network start soon."""

_NAME = re.compile(r"\w[\w.+=@,() -]*\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")

_LOGGER = logging.getLogger("launcher")


def fetch_manifest(store: RemoteStore, cache: ShardCache) -> Manifest:
    """The manifest at a URL; where the URL cannot be reached, the one cached last, with a warning.

    Raise UserError or ShardsError when there is none, or it cannot be trusted.
    """
    cache.subfolder("manifests")
    folder = cache.subfolder(f"manifests/{hashlib.sha256(store.url.encode()).hexdigest()}")
    path = folder / MANIFEST_NAME
    is_known = path.is_file() and not path.is_symlink()
    try:
        content = store.read(MANIFEST_NAME, 0, MAX_MANIFEST_BYTES + 1, max_tries=KNOWN_TRIES if is_known else None)
    except FetchError as error:
        if not (is_known and isinstance(error, UnreachableError)):
            raise UserError(str(error)) from None
        _LOGGER.warning("%s; uses the manifest cached earlier", error)
    else:
        if len(content) > MAX_MANIFEST_BYTES:
            raise UserError(f"{store.place(MANIFEST_NAME)}: is over {MAX_MANIFEST_BYTES >> 20} MiB: not a manifest")
        _write(cache, path, content)
    try:
        manifest = read_manifest(folder)
    except ShardsError as error:
        raise ShardsError(str(error).replace(str(folder), store.url)) from None
    except RecursionError:
        raise ShardsError(f"{store.place(MANIFEST_NAME)}: nested too deep for a manifest") from None
    _check(manifest, store)
    return manifest


def _write(cache: ShardCache, path: Path, content: bytes) -> None:
    try:
        with cache.locked():  # processes that start together write the same
            if path.is_symlink() or not path.is_file() or path.read_bytes() != content:
                write_atomically(path, content)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); set data.remote_cache") from None


def _check(manifest: Manifest, store: RemoteStore) -> None:
    """Raise UserError unless it lists shards beside it: it comes from outside, and names files and sizes."""
    try:
        what = next((what for shard in manifest.shards if (what := _find_wrong(shard))), None)
        if len({shard.name for shard in manifest.shards}) < len(manifest.shards):
            what = "lists a shard twice"
        for split in manifest.splits:
            if sum(shard.num_images for shard in manifest.shards_of(split)) != manifest.num_images(split):
                what = what or f"shards and classes of {split} have different numbers of images"
    except TypeError as error:
        what = str(error)
    if what is not None:
        advice = "pack with 'python -m shards' and copy the whole folder"
        raise UserError(f"{store.place(MANIFEST_NAME)}: {what}; {advice}")


def _find_wrong(shard: Shard) -> str | None:
    if not _NAME.fullmatch(shard.name):
        return f"{shard.name!r} is not a name of a shard"
    if not _SHA256.fullmatch(shard.sha256):
        return f"{shard.name}: {shard.sha256!r} is not a sha256"
    if not all(isinstance(number, int) for number in (shard.num_images, shard.num_bytes)):
        return f"{shard.name}: {shard.num_images!r} images, {shard.num_bytes!r} bytes: not whole numbers"
    if not (0 <= shard.num_images * LEAST_IMAGE_BYTES <= shard.num_bytes and shard.num_bytes > 0):
        return f"{shard.name}: {shard.num_images} images in {shard.num_bytes} bytes is impossible"
    return None
