"""A folder of this machine that keeps shards from elsewhere, for all processes and runs on it. Needs no torch.

    CACHE/<manifest>/train-00000.tar                  whole, its hash checked
    CACHE/<manifest>/train-00000.index.npy            its index
    CACHE/<manifest>/train-00001.tar.52428800.partial on its way, with the bytes that it will have
    CACHE/.room                                       locked while room is made

Whoever downloads a shard holds its partial file locked, so the others wait; whoever reads one holds it locked together
with other readers, and what is locked is never removed. Locks are the operating system's (flock): they end with their
process, however that ends. Each goes with an open file, so threads of one process exclude each other as well.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedRandom
from pathlib import Path

from launcher.errors import FetchError, UserError
from shards.manifest import fsync_folder, index_path

ROOM_WAIT_S = 60.0
"""How long to wait for others to let go of shards before there is no room."""

_PARTIAL = re.compile(r"\.(\d+)\.partial$")
_LOOK_AGAIN_S = 0.05

_OURS = re.compile(r"[0-9a-f]{64}")
"""Folders that are made here: a user may name one for the cache that holds other tars, too."""

Fill = Callable[[BufferedRandom], None]
"""Completes a file that may be begun already, and checks it. Raises FetchError."""


@dataclass(frozen=True, slots=True)
class _Kept:
    path: Path
    num_bytes: int
    used_s: float


class ShardCache:
    """`folder` takes no more than `limit_bytes` of shards, those on their way included; the longest unused go first."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def subfolder(self, name: str) -> Path:
        """A folder in it, which is there then. Raise UserError when it cannot be."""
        path = self.folder / name
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be made ({error.strerror}); set data.remote_cache") from None
        if path.is_symlink():
            raise UserError(f"{path}: is a symbolic link, which is not followed; delete it")
        return path

    def open(self, tar: Path, num_bytes: int, fill: Fill) -> tuple[int, bool]:
        """An open descriptor of a shard, never removed before it is closed, and whether it was fetched just now.

        Raise FetchError when it is not to be had, or there is no room for it.
        """
        is_new = False
        try:
            while (descriptor := _open_whole(tar, num_bytes)) is None:
                is_new = self._fetch(tar, num_bytes, fill)
        except OSError as error:
            raise FetchError(
                f"{tar}: cannot be kept ({error.strerror}); make room, lower data.remote_cache_gib, or set "
                "data.remote_cache to another folder"
            ) from None
        return descriptor, is_new

    @contextmanager
    def locked(self) -> Iterator[None]:
        """No other process or thread is in here meanwhile. Raise OSError."""
        descriptor = os.open(self.folder / ".room", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def count_arrived(self, tar: Path, num_bytes: int) -> int | None:
        """Bytes of a shard that is on its way; None for one that is not."""
        try:
            return _partial(tar, num_bytes).stat().st_size
        except OSError:
            return None

    def _fetch(self, tar: Path, num_bytes: int, fill: Fill) -> bool:
        """Fetch it, unless somebody else does meanwhile."""
        partial = _partial(tar, num_bytes)
        with os.fdopen(self._reserve(partial, num_bytes), "a+b") as file:
            if not _wait_for(file.fileno(), partial):
                return False
            if tar.exists():
                partial.unlink()
                return False
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            partial.rename(tar)
        fsync_folder(tar.parent)
        return True

    def _reserve(self, partial: Path, num_bytes: int) -> int:
        """An open descriptor of the partial file, for which there is room."""
        end = time.monotonic() + ROOM_WAIT_S
        while True:
            with self.locked():
                # What is begun has its room already.
                if partial.exists() or self._make_room(num_bytes):
                    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if time.monotonic() > end:
                raise FetchError(
                    f"{self.folder}: its {self.limit_bytes / 2**30:.3g} GiB are full of shards in use; raise "
                    "data.remote_cache_gib, or set data.remote_cache to a folder of this run's own"
                )
            time.sleep(_LOOK_AGAIN_S)

    def _make_room(self, num_bytes: int) -> bool:
        """Remove what nobody uses, until so much more fits."""
        kept = sorted(self._kept(), key=lambda each: each.used_s)
        used_bytes = sum(each.num_bytes for each in kept)
        for each in kept:
            if used_bytes + num_bytes <= self.limit_bytes:
                break
            if _remove_unused(each.path):
                used_bytes -= each.num_bytes
        return used_bytes + num_bytes <= self.limit_bytes

    def _kept(self) -> Iterator[_Kept]:
        ours = [path for path in self.folder.iterdir() if _OURS.fullmatch(path.name) and not path.is_symlink()]
        for path in (path for folder in ours for path in folder.iterdir()):
            partial = _PARTIAL.search(path.name)
            if partial or path.suffix == ".tar":
                try:
                    facts = path.lstat()
                except FileNotFoundError:
                    continue
                yield _Kept(path, int(partial[1]) if partial else facts.st_size, facts.st_mtime)


def let_go(descriptor: int) -> None:
    """Close a shard; from now on it may be removed, after those that were unused for longer."""
    os.utime(descriptor)
    os.close(descriptor)


def _open_whole(tar: Path, num_bytes: int) -> int | None:
    try:
        descriptor = os.open(tar, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if _is_named(descriptor, tar):
            if os.fstat(descriptor).st_size == num_bytes and index_path(tar).exists():
                os.utime(descriptor)
                return descriptor
            tar.unlink(missing_ok=True)  # cut off, or half removed: fetched anew
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _partial(tar: Path, num_bytes: int) -> Path:
    return tar.with_name(f"{tar.name}.{num_bytes}.partial")


def _wait_for(descriptor: int, partial: Path) -> bool:
    """Lock it. False: meanwhile it was completed or removed.

    Asked again and again: the system would wait on for a file that has been completed and is read from then on.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _is_named(descriptor, partial):
                return False
            time.sleep(_LOOK_AGAIN_S)
        else:
            return _is_named(descriptor, partial)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the file still has this name: while its lock was waited for, it may have been renamed or removed."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone, or none of ours
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_named(descriptor, path):
            return False
        path.unlink()
        if path.suffix == ".tar":
            index_path(path).unlink(missing_ok=True)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True
