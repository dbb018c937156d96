"""All images of a split decoded, in memory that the processes of a node share."""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from launcher.augment.images import INT64, PackedImages, pack_side_by_side
from launcher.data.encoded import open_sample
from launcher.data.order import Ids
from launcher.data.reader import SampleReader

_SAMPLES = 64
_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True)
class DecodedCache:
    """`images`: in the order of their ids."""

    images: PackedImages
    labels_N: Ids

    def take(self, ids_B: Ids) -> tuple[PackedImages, Tensor]:
        """Images and labels_B, no pixel copied; for padding, -1, those of image 0."""
        rows = np.maximum(ids_B, 0)
        return self.images.part(rows), torch.from_numpy(self.labels_N[rows])

    def to(self, device: torch.device) -> DecodedCache:
        return replace(self, images=self.images.to(device))


def scan_heads(reader: SampleReader, ids: Ids, min_side: int | None) -> INT64:
    """Height, width and label of each image: facts_N3. Raise DataError when one is none."""
    facts_N3: INT64 = np.empty((len(ids), 3), dtype=np.int64)
    for row, i in enumerate(ids.tolist()):
        encoded, label = open_sample(reader, i, min_side)
        facts_N3[row] = (*encoded.size, label)
    return facts_N3


def estimate_pixels(reader: SampleReader, min_side: int | None) -> int:
    """Pixels of all images together, from some of them."""
    ids = np.unique(np.linspace(0, reader.num_images - 1, _SAMPLES).astype(np.int64))
    return int(scan_heads(reader, ids, min_side)[:, :2].prod(axis=1).mean() * reader.num_images)


def lay_out(facts_N3: INT64, pixels_PC: Tensor) -> DecodedCache:
    """Where each image has its place in the block, one after the other."""
    sizes_N2 = facts_N3[:, :2]
    return DecodedCache(PackedImages(pixels_PC, pack_side_by_side(sizes_N2)[0], sizes_N2), facts_N3[:, 2].copy())


def fill(decoded: DecodedCache, reader: SampleReader, ids: Ids, min_side: int | None, workers: int) -> None:
    """Decode these images to their places. Raise DataError when one is damaged."""

    def decode(i: int) -> None:
        encoded, _ = open_sample(reader, i, min_side)
        encoded.decode(decoded.images.image(i).numpy())

    with ThreadPoolExecutor(max(workers, 1), "decode") as pool:
        for _ in pool.map(decode, ids.tolist()):
            pass


def free_bytes(is_shared: bool) -> int:
    """Memory that a block may take without pushing others out: half of what this node, or this job's part, has left."""
    left = [os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        left = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")] or left
    except OSError:
        pass  # not Linux: what is free without the files it has in memory
    if is_shared:
        place = os.statvfs(shared_folder())
        left.append(place.f_bavail * place.f_frsize)
    return min([*left, *_left_of_groups()]) // 2


def _left_of_groups() -> list[int]:
    """What the control groups (version 2) that SLURM or a container put this process in have left."""
    left = []
    try:
        name = Path("/proc/self/cgroup").read_text().splitlines()[-1].rpartition(":")[2]
        group = Path("/sys/fs/cgroup") / name.lstrip("/")
        for folder in (group, *group.parents):
            limit = folder / "memory.max"
            if limit.exists() and (text := limit.read_text().strip()) != "max":
                left.append(max(int(text) - int((folder / "memory.current").read_text()), 0))
    except (OSError, ValueError, IndexError):
        pass  # none, or not Linux
    return left


def shared_folder() -> Path:
    """Where files are memory, on Linux."""
    return _SHARED_MEMORY if _SHARED_MEMORY.is_dir() else Path(tempfile.gettempdir())


def create_shared(path: Path, num_bytes: int) -> None:
    """A new file of this process's owner alone, its room taken. Raise OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, 0, num_bytes)  # a full disk is an error here, and death at a later write
        else:
            os.ftruncate(descriptor, num_bytes)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(descriptor)


def map_shared(path: Path, num_bytes: int) -> Tensor:
    """Its bytes_N; they stay as long as some process uses them, also when the file has lost its name.

    Raise OSError when it is not there, or another: torch would make a new one.
    """
    if path.stat().st_size != num_bytes:
        raise FileNotFoundError(f"{path}: not the file that was made here")
    return torch.from_file(str(path), shared=True, size=num_bytes, dtype=torch.uint8)
