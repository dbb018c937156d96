"""The files of a folder of shards: `manifest.json` for the whole, and an `.index.npy` beside each tar.

    data/digits/manifest.json          classes, shards, counts, hashes, channel statistics
    data/digits/train-00000.tar        members KEY.png + KEY.cls, readable by any WebDataset reader
    data/digits/train-00000.index.npy  offset, size and label of every image in that tar

A reader finds image `i` of a split with the manifest and one index, and never scans a tar. Needs no torch.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.files import write_atomically

MANIFEST_NAME = "manifest.json"
FORMAT = 1

INDEX_DTYPE = np.dtype([("offset", "<i8"), ("size", "<i8"), ("label", "<i4")])
"""A row per image: byte offset of its data in the tar, size in bytes, class number."""

IndexArray = npt.NDArray[np.void]

_HEADERS = threading.Lock()
"""NumPy reads the header of a file with Python's parser, which in 3.11 counts its depth for all threads together. Seen
once when threads opened shards: `SystemError: AST constructor recursion depth mismatch`."""


class ShardsError(Exception):
    """A user error about shards. The message is one line: what is wrong and what to do next."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar file of one split. `sha256`: hash of the tar."""

    name: str
    split: str
    num_images: int
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The metadata of a folder of shards.

    `class_counts[split][k]` is the number of images of class `k`; `mean` and `std` are per RGB channel over the train
    split, of values in [0, 1]; `max_side` is the longest side in pixels that packing allowed (None: original bytes);
    `label_field` is the JSON field that labels were read from (None: `.cls` or the usual fields).
    """

    source: str
    classes: tuple[str, ...]
    shards: tuple[Shard, ...]
    class_counts: Mapping[str, tuple[int, ...]]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_side: int | None = None
    label_field: str | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self.class_counts)

    def num_images(self, split: str) -> int:
        """Images in `split`; 0 when there is no such split."""
        return sum(self.class_counts.get(split, ()))

    def shards_of(self, split: str) -> tuple[Shard, ...]:
        """The split's shards in the order of its image numbers: image 0 is the first one of the first shard."""
        return tuple(shard for shard in self.shards if shard.split == split)

    @cached_property
    def sha256(self) -> str:
        """Hash of the whole manifest: folders with the same hash train the same."""
        return hashlib.sha256(render_manifest(self).encode()).hexdigest()


def render_manifest(manifest: Manifest) -> str:
    return json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1) + "\n"


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json` last and whole: a folder that has one is complete."""
    write_atomically(folder / MANIFEST_NAME, render_manifest(manifest).encode())


def read_manifest(folder: Path) -> Manifest:
    """Raise ShardsError when `folder` has no manifest, or a damaged or foreign one."""
    path, advice = folder / MANIFEST_NAME, f"run 'python -m shards index {folder}'"
    try:
        raw: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise ShardsError(f"{folder}: no {MANIFEST_NAME} here; run 'python -m shards pack' or 'index' first") from None
    except (OSError, ValueError) as error:
        raise ShardsError(f"{path}: cannot be read ({error}); {advice}") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise ShardsError(f"{path}: not a shards manifest of format {FORMAT}; {advice}")
    try:
        shards = tuple(Shard(**shard) for shard in raw["shards"])
        if outside := [shard.name for shard in shards if "/" in shard.name or shard.name in ("", ".", "..")]:
            raise ShardsError(f"{path}: {outside[0]!r} is not a file name; {advice}")
        counts = {split: tuple(per_class) for split, per_class in raw["class_counts"].items()}
        mean, std, max_side, label_field = (
            tuple(raw["mean"]),
            tuple(raw["std"]),
            raw["max_side"],
            raw.get("label_field"),
        )
        return Manifest(raw["source"], tuple(raw["classes"]), shards, counts, mean, std, max_side, label_field)
    except (KeyError, TypeError, AttributeError) as error:
        raise ShardsError(f"{path}: damaged ({error!r}); {advice}") from None


def index_path(tar: Path) -> Path:
    return tar.with_suffix(".index.npy")


def write_index(tar: Path, rows: IndexArray) -> None:
    """`rows`: one per image, in the tar's order."""
    stream = io.BytesIO()
    np.save(stream, rows, allow_pickle=False)
    write_atomically(index_path(tar), stream.getvalue())


def read_index(tar: Path) -> IndexArray:
    """The memory-mapped index beside `tar`. Raise ShardsError when it is missing, damaged or foreign."""
    path = index_path(tar)
    try:
        with _HEADERS:
            rows: IndexArray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ShardsError(f"{path}: cannot be read ({error}); run 'python -m shards index {tar.parent}'") from None
    if rows.dtype != INDEX_DTYPE:
        raise ShardsError(f"{path}: not a shard index; run 'python -m shards index {tar.parent}'")
    return rows
