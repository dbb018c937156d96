"""A folder of remote shards on this machine, shared by all its processes and runs. Needs no torch.

    CACHE/<manifest>/train-00000.tar                  complete, its hash checked
    CACHE/<manifest>/train-00000.index.npy            its index
    CACHE/<manifest>/train-00001.tar.52428800.partial being downloaded, with its final number of bytes
    CACHE/.room                                       locked while room is made, or a shard gets its final name

A process that downloads a shard holds an exclusive lock of its partial file, so others wait; readers of a shard hold a
shared lock, and a locked shard is never removed. Locks are the operating system's (flock): they end with their process,
however that ends. Each belongs to an open file, so threads of one process exclude each other as well.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedRandom
from pathlib import Path

from launcher.errors import FetchError, UserError
from shards.files import fsync
from shards.manifest import index_path

ROOM_WAIT_S = 60.0
"""Longest wait for others to release shards when there is no room."""

_PARTIAL = re.compile(r"\.(\d+)\.partial$")
_POLL_S = 0.05

_OURS = re.compile(r"[0-9a-f]{64}")
"""Folders that are created here: the user's folder may hold other tars, too."""

Fill = Callable[[BufferedRandom], None]
"""Completes a file, of which a part may be there, and checks it. Raises FetchError."""


class ShardCache:
    """At most `limit_bytes` of shards in `folder`, partial ones counted whole; the least recently used are removed."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self.folder = folder
        self.limit_bytes = limit_bytes

    def subfolder(self, name: str) -> Path:
        """A folder in it, created if missing. Raise UserError when that fails."""
        path = self.folder / name
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{path}: cannot be created ({error.strerror}); set data.remote_cache") from None
        if path.is_symlink():
            raise UserError(f"{path}: is a symbolic link, which is not followed; delete it")
        return path

    def open(self, tar: Path, num_bytes: int, fill: Fill) -> tuple[int, bool]:
        """An open descriptor of a shard, which is not removed before it is released; and whether it was downloaded now.

        Raise FetchError when it cannot be fetched, or there is no room for it.
        """
        is_new = False
        try:
            while (descriptor := _open_whole(tar, num_bytes)) is None:
                is_new = self._fetch(tar, num_bytes, fill)
        except OSError as error:
            raise FetchError(
                f"{tar}: cannot be written ({error.strerror}); free disk space, lower data.remote_cache_gib, or set "
                "data.remote_cache to another folder"
            ) from None
        return descriptor, is_new

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Exclude all other processes and threads. Raise OSError."""
        descriptor = os.open(self.folder / ".room", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def count_downloaded(self, tar: Path, num_bytes: int) -> int | None:
        """Bytes of a shard that is being downloaded; None for any other."""
        try:
            return _partial(tar, num_bytes).stat().st_size
        except OSError:
            return None

    def _fetch(self, tar: Path, num_bytes: int, fill: Fill) -> bool:
        """Download a shard. False: another process or thread did."""
        partial = _partial(tar, num_bytes)
        with os.fdopen(self._reserve(partial, num_bytes), "a+b") as file:
            if not _wait_for(file.fileno(), partial):
                return False
            if tar.exists():
                with self.locked():
                    partial.unlink()
                return False
            fill(file)
            file.flush()
            os.fsync(file.fileno())
            # Locked, as `_cached` counts a file under neither name when it is renamed between listing and lstat.
            with self.locked():
                partial.rename(tar)
        fsync(tar.parent)
        return True

    def _reserve(self, partial: Path, num_bytes: int) -> int:
        """An open descriptor of the partial file, with room for the whole shard."""
        end = time.monotonic() + ROOM_WAIT_S
        while True:
            with self.locked():
                # A partial file has its room already.
                if partial.exists() or self._make_room(num_bytes):
                    return os.open(partial, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            if time.monotonic() > end:
                raise FetchError(
                    f"{self.folder}: all {self.limit_bytes / 2**30:.3g} GiB hold shards in use; raise "
                    "data.remote_cache_gib, or set data.remote_cache to a folder for this run alone"
                )
            time.sleep(_POLL_S)

    def _make_room(self, num_bytes: int) -> bool:
        """Remove unused shards until `num_bytes` more fit. False: they do not."""
        cached = sorted(self._cached())
        free_bytes = self.limit_bytes - sum(each_bytes for _, each_bytes, _ in cached)
        for _, each_bytes, path in cached:
            if num_bytes <= free_bytes:
                break
            if _remove_unused(path):
                free_bytes += each_bytes
        return num_bytes <= free_bytes

    def _cached(self) -> Iterator[tuple[float, int, Path]]:
        """Time of last use, number of bytes when complete, and path of each shard."""
        ours = [path for path in self.folder.iterdir() if _OURS.fullmatch(path.name) and not path.is_symlink()]
        for path in (path for folder in ours for path in folder.iterdir()):
            partial = _PARTIAL.search(path.name)
            if partial or path.suffix == ".tar":
                try:
                    status = path.lstat()
                except FileNotFoundError:
                    continue
                yield status.st_mtime, int(partial[1]) if partial else status.st_size, path


def release(descriptor: int) -> None:
    """Close a shard; from now on it may be removed, after those used less recently."""
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
            tar.unlink(missing_ok=True)  # truncated, or half removed: downloaded again
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _partial(tar: Path, num_bytes: int) -> Path:
    return tar.with_name(f"{tar.name}.{num_bytes}.partial")


def _wait_for(descriptor: int, partial: Path) -> bool:
    """Lock the partial file. False: meanwhile it was completed or removed.

    Polls: a blocking lock would wait on for a file that has been completed and is being read.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not _is_named(descriptor, partial):
                return False
            time.sleep(_POLL_S)
        else:
            return _is_named(descriptor, partial)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the file still has this name: it may have been renamed or removed during the wait for its lock."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _remove_unused(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:  # gone, or not ours
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
