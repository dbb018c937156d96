"""Pack a source into tars, or wait for the process that packs it.

DEST.lock       held while packing: one process packs, the others wait
DEST.partial/   everything is written here and fsynced, then renamed
DEST/           complete, or missing
"""

from __future__ import annotations

import fcntl
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from shards.files import commit_folder
from shards.images import ChannelSums, decode_rgb, shrink
from shards.manifest import (
    INDEX_DTYPE,
    MANIFEST_NAME,
    Manifest,
    Shard,
    ShardsError,
    read_manifest,
    write_index,
    write_manifest,
)
from shards.progress import SILENT, Progress
from shards.samples import hash_file, read_records
from shards.sources import Item, Listing, PackOptions, check_source_name, describe, open_source
from shards.splits import seeded_order

MAX_MEASURED = 10_000
"""Largest number of train images that mean and std are measured on."""

TAR_OPTIONS = {"encoder": False, "mtime": 0, "user": "", "group": "", "mode": 0o644}
"""Time, owner and mode are fixed, so that the same images give the same bytes."""


def pack(source_name: str, dest: Path, options: PackOptions, progress: Progress = SILENT) -> Manifest:
    """Pack `source_name` into DEST as tar shards. A DEST of the same source and options is kept.

    The same source, options and library versions give the same bytes. Channel mean and std are over the train
    images as packed, or over MAX_MEASURED of them chosen by the seed. Raise ShardsError when DEST has other content.
    """
    description = _check_options(source_name, options)
    dest = dest.resolve()
    with _locked(dest):
        manifest = _read_finished(dest)
        if manifest is None:
            return _pack(source_name, dest, options, progress)
    if manifest.source != description:
        raise ShardsError(f"{dest}: has '{manifest.source}', not '{description}'; delete it or choose another folder")
    progress.note(f"{dest}: already packed")
    return manifest


def prepare(source_name: str, dest: Path, options: PackOptions, progress: Progress = SILENT) -> Manifest:
    """The manifest of DEST, which is packed if it has none. Any number of processes may call this at once.

    An existing DEST may be of another source or options: compare its `source` with `describe(source_name, options)`.
    """
    _check_options(source_name, options)
    dest = dest.resolve()
    if (dest / MANIFEST_NAME).exists():
        return read_manifest(dest)
    with _locked(dest):
        return _read_finished(dest) or _pack(source_name, dest, options, progress)


def _check_options(source_name: str, options: PackOptions) -> str:
    check_source_name(source_name)
    for name, value in (("max_side", options.max_side), ("images_per_shard", options.images_per_shard)):
        if value is not None and value < 1:
            raise ShardsError(f"{name} is {value}, must be 1 or more")
    return describe(source_name, options)


@contextmanager
def _locked(dest: Path) -> Iterator[None]:
    dest.parent.mkdir(parents=True, exist_ok=True)
    with dest.with_name(f"{dest.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_finished(dest: Path) -> Manifest | None:
    """The manifest of DEST, if there is one. Call it under the lock: without, the folder may appear meanwhile."""
    if (dest / MANIFEST_NAME).exists():
        return read_manifest(dest)
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise ShardsError(f"{dest}: has other content; choose another folder, or 'python -m shards index' its tars")
    return None


def _pack(source_name: str, dest: Path, options: PackOptions, progress: Progress) -> Manifest:
    source = open_source(source_name, options)
    for line in source.notes:
        progress.note(line)
    partial = dest.with_name(f"{dest.name}.partial")
    if partial.exists():  # of a killed process
        shutil.rmtree(partial)
    partial.mkdir()
    try:
        manifest = _write_shards(source, partial, describe(source_name, options), options, progress)
        commit_folder(partial, dest)
    except Exception:
        shutil.rmtree(partial)
        raise
    return manifest


def _write_shards(
    source: Listing, folder: Path, description: str, options: PackOptions, progress: Progress
) -> Manifest:
    sums = ChannelSums()
    shards: list[Shard] = []
    counts: dict[str, tuple[int, ...]] = {}
    for split, items in source.splits.items():
        if split == "train":  # neighbors in a shard must not all be of one class
            items = [items[i] for i in seeded_order((item.key for item in items), options.seed, "shuffle")]
        shards += _write_split(folder, split, items, options, sums, progress)
        per_class = Counter(item.label for item in items)
        counts[split] = tuple(per_class[label] for label in range(len(source.classes)))
    mean, std = sums.mean_std()
    manifest = Manifest(description, source.classes, tuple(shards), counts, mean, std, options.max_side)
    write_manifest(folder, manifest)
    return manifest


def _write_split(
    folder: Path, split: str, items: Sequence[Item], options: PackOptions, sums: ChannelSums, progress: Progress
) -> list[Shard]:
    """Write the split's tars and their indexes."""
    from webdataset import TarWriter  # imports torch: seconds that only packing should cost

    samples = _read_samples(split, items, options, sums, progress)
    shards: list[Shard] = []
    for _ in range(0, len(items), options.images_per_shard):
        tar = folder / f"{split}-{len(shards):05d}.tar"
        with tar.open("wb") as file, TarWriter(file, **TAR_OPTIONS) as writer:
            for sample in itertools.islice(samples, options.images_per_shard):
                writer.write(sample)
        records, problems = read_records(tar, None)
        if problems:
            raise ShardsError(f"{split}: {problems[0]}")
        rows = np.array([(record.offset, record.size, record.label) for record in records], INDEX_DTYPE)
        write_index(tar, rows)
        shards.append(Shard(tar.name, split, len(rows), tar.stat().st_size, hash_file(tar)))
    assert sum(shard.num_images for shard in shards) == len(items)
    return shards


def _read_samples(
    split: str, items: Sequence[Item], options: PackOptions, sums: ChannelSums, progress: Progress
) -> Iterator[dict[str, str | bytes]]:
    """The samples that webdataset writes; `sums` collects the measured train images."""
    measured: set[int] = set()
    if split == "train":
        measured.update(seeded_order((item.key for item in items), options.seed, "measure")[:MAX_MEASURED])
    for number, item in enumerate(items):
        try:
            content = item.read()
            if options.max_side is not None:
                content = shrink(content, item.extension, options.max_side)
            if number in measured:
                sums.add(decode_rgb(content))
        except (ShardsError, OSError) as error:
            advice = f"; repair {item.path}, or remove it" if item.path is not None else ""
            raise ShardsError(f"{split}: {item.key}: {error}{advice}") from None
        yield {"__key__": item.key, item.extension: content, "cls": str(item.label).encode()}
        progress.update(f"pack {split}", number + 1, len(items))
