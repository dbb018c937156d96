"""Memory that the processes of a node share, and how much of it there is. Files in memory hold it, on Linux."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

_SHARED_MEMORY = Path("/dev/shm")


def free_bytes(is_shared: bool) -> int:
    """Half of the memory that is available to this process: on this node, and in its control groups.

    `is_shared`: whether it must also fit in `shared_folder`.
    """
    available = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")] or available
    except OSError:
        pass  # not Linux: the first number does not count the file cache
    if is_shared:
        disk = os.statvfs(shared_folder())
        available.append(disk.f_bavail * disk.f_frsize)
    return min([*available, *_free_in_groups()]) // 2


def _free_in_groups() -> list[int]:
    """Free bytes of each control group (version 2) that SLURM or a container put this process in."""
    free = []
    try:
        name = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
        group = Path("/sys/fs/cgroup") / name.lstrip("/")
        for folder in (group, *group.parents):
            limit = folder / "memory.max"
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                free.append(max(int(text) - int((folder / "memory.current").read_text()), 0))
    except (OSError, ValueError, IndexError):
        pass  # no group, or not Linux
    return free


def shared_folder() -> Path:
    """A folder whose files are memory, on Linux."""
    return _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())


def create_shared(path: Path, num_bytes: int) -> None:
    """A new file that only this user may open, with its memory allocated. Raise OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, num_bytes)  # no room is an error here; at a later write it kills
        else:
            os.ftruncate(descriptor, num_bytes)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def map_shared(path: Path, num_bytes: int) -> Tensor:
    """The file's bytes_N; they stay as long as some process uses them, also after the file is unlinked.

    Raise OSError when it does not exist or has another size: torch would create a new one.
    """
    if path.stat().st_size != num_bytes:
        raise FileNotFoundError(f"{path}: not the file that was created here")
    return torch.from_file(str(path), shared=True, size=num_bytes, dtype=torch.uint8)
