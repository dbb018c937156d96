"""Features on disk: the values that a frozen part gives for every image of a split, mapped into memory.

data/features/<key>/ features.json   metadata of the features; written last
                     part-0000.bin   a record for each image: the values at the boundary, then the label; a part a rank

The key is a hash of everything that the values depend on, so features under a key are never wrong. Needs no torch:
values are bytes here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

import numpy as np

from launcher.augment.arrays import INT64, UINT8
from launcher.data.ids import Ids, part_bounds
from shards.files import commit_folder, write_atomically

ROOT = Path("data/features")
METADATA_NAME = "features.json"
LABEL_BYTES = 8
SKIPPED = -1
"""Label of an image that could not be read."""

Records = UINT8
"""Bytes of records: a row for each image."""
DtypeName = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, slots=True)
class Value:
    """A value at the boundary, for one image. `dtype`: torch's name."""

    dtype: DtypeName
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        return prod(self.shape) * (4 if self.dtype == "float32" else 2)


@dataclass(frozen=True, slots=True)
class Layout:
    """Sizes of the records and files of one split."""

    values: tuple[Value, ...]
    num_images: int
    num_parts: int

    @property
    def record_bytes(self) -> int:
        return sum(value.num_bytes for value in self.values) + LABEL_BYTES

    @property
    def num_bytes(self) -> int:
        return self.record_bytes * self.num_images

    @property
    def bounds(self) -> Ids:
        """First id of each part, and the number of images."""
        return part_bounds(self.num_images, self.num_parts)


def key_of(metadata: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(metadata, sort_keys=True).encode()).hexdigest()[:24]


class Features:
    """The records of one split, mapped into memory: read from disk as they are used."""

    def __init__(self, folder: Path, layout: Layout) -> None:
        self.folder = folder
        self.layout = layout
        self._bounds = layout.bounds
        self._parts = {
            i: np.memmap(_part(folder, i), np.uint8, "r").reshape(-1, layout.record_bytes)
            for i in np.flatnonzero(np.diff(self._bounds)).tolist()
        }

    def read(self, ids_B: Ids) -> tuple[list[Records], INT64]:
        """Bytes of each value, [B, bytes], and labels_B; for padding, -1, those of image 0."""
        ids_B = np.maximum(ids_B, 0)
        records = np.empty((len(ids_B), self.layout.record_bytes), dtype=np.uint8)
        parts_B = np.searchsorted(self._bounds, ids_B, side="right") - 1
        for i in np.unique(parts_B).tolist():
            records[parts_B == i] = self._parts[i][ids_B[parts_B == i] - self._bounds[i]]
        values = np.split(records, np.cumsum([value.num_bytes for value in self.layout.values]), axis=1)
        return values[:-1], values[-1].copy().view(np.int64)[:, 0]


def open_features(root: Path, key: str) -> Features | None:
    """None when they do not exist or are incomplete."""
    folder = root / key
    try:
        metadata = json.loads((folder / METADATA_NAME).read_text())
        values = tuple(Value(value["dtype"], tuple(value["shape"])) for value in metadata["layout"]["values"])
        layout = Layout(values, metadata["layout"]["num_images"], metadata["layout"]["num_parts"])
        sizes = (np.diff(layout.bounds) * layout.record_bytes).tolist()
        if not sizes or [_part(folder, i).stat().st_size for i in range(layout.num_parts)] != sizes:
            return None
        return Features(folder, layout)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def write_part(folder: Path, number: int, records: Iterable[Records]) -> int:
    """Write one rank's part into a temporary folder, which `commit_features` renames. Return its bytes."""
    with _part(folder, number).open("wb") as file:
        for rows in records:
            file.write(np.ascontiguousarray(rows).data)
        return file.tell()


def commit_features(temporary: Path, root: Path, key: str, metadata: dict[str, Any], layout: Layout) -> None:
    """Rename the folder to its key once every part is in it. Features that another run has put there are as good."""
    text = json.dumps({**metadata, "layout": asdict(layout), "bytes": layout.num_bytes}, indent=1)
    write_atomically(temporary / METADATA_NAME, text.encode())
    if (root / key).exists() and open_features(root, key) is None:
        shutil.rmtree(root / key)
    try:
        commit_folder(temporary, root / key)
    except OSError:
        if open_features(root, key) is None:
            raise
        shutil.rmtree(temporary)


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number:04d}.bin"
