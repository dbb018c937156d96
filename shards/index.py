"""Index tars made by other tools: webdataset's ShardWriter, img2dataset, GNU tar."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from shards.images import RGB, ChannelSums, decode_rgb
from shards.manifest import (
    INDEX_DTYPE,
    MANIFEST_NAME,
    IndexArray,
    Manifest,
    Shard,
    ShardsError,
    read_manifest,
    write_index,
    write_manifest,
)
from shards.progress import SILENT, Progress
from shards.samples import Label, Record, hash_file, label_number, read_records
from shards.splits import SPLITS, canonical_split, seeded_order

MAX_MEASURED = 1_000
"""Largest number of train images that mean and std are measured on."""

MAX_CLASSES = 100_000
"""Largest number of classes. A higher class number is an identifier, not a label."""


def index(
    folder: Path,
    *,
    label_field: str | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress = SILENT,
) -> Manifest:
    """Write the manifest of all tars in `folder`, and an index beside each; the tars stay as they are.

    Labels come from `.cls` or a JSON member's `label_field`: a class number if all digits, else a class name.
    Classes are `classes`, else the names found, sorted, else the numbers 0 to the highest found. The split follows from
    the tar's name, see `split_of`. Mean and std are over MAX_MEASURED train images. Raise ShardsError on a damaged tar,
    a sample without image or label, or an unknown class.
    """
    tars = sorted(folder.glob("*.tar"))
    if not tars:
        raise ShardsError(f"{folder}: no .tar files here; decompress compressed ones first")
    records = _read_all(tars, label_field, progress)
    known = _read_known(folder, tars)
    if known is not None and label_field is None and classes is None:
        for tar in tars:
            write_index(tar, _index_rows(tar, records[tar], known.classes))
        return known
    names = _class_names([record.label for each in records.values() for record in each], classes)
    indexes = {tar: _index_rows(tar, each, names) for tar, each in records.items()}
    in_order = sorted(tars, key=lambda tar: (SPLITS.index(split_of(tar)), tar.name))
    measured = [tar for tar in tars if split_of(tar) == "train"] or tars
    mean, std = _measure({tar: records[tar] for tar in measured}, progress)
    (folder / MANIFEST_NAME).unlink(missing_ok=True)  # it must not outlive the indexes it describes
    shards: list[Shard] = []
    counts: dict[str, Counter[int]] = {}
    for tar in in_order:
        split, rows = split_of(tar), indexes[tar]
        write_index(tar, rows)
        shards.append(Shard(tar.name, split, len(rows), tar.stat().st_size, hash_file(tar)))
        counts.setdefault(split, Counter()).update(rows["label"].tolist())
        progress.update("hash", len(shards), len(tars))
    class_counts = {split: tuple(each[k] for k in range(len(names))) for split, each in counts.items()}
    manifest = Manifest("index", names, tuple(shards), class_counts, mean, std, label_field=label_field)
    write_manifest(folder, manifest)
    return manifest


def _read_known(folder: Path, tars: Sequence[Path]) -> Manifest | None:
    """The folder's manifest if its tars have not changed: it is kept, so that runs on it can resume."""
    try:
        manifest = read_manifest(folder)
    except ShardsError:
        return None
    hashes = {shard.name: shard.sha256 for shard in manifest.shards}
    is_same = hashes.keys() == {tar.name for tar in tars} and all(hash_file(tar) == hashes[tar.name] for tar in tars)
    return manifest if is_same else None


def _index_rows(tar: Path, records: Sequence[Record], classes: Sequence[str]) -> IndexArray:
    rows = [(record.offset, record.size, _number(tar, record, classes)) for record in records]
    return np.array(rows, INDEX_DTYPE)


def split_of(tar: Path) -> str:
    """The split named in the tar's name, as in `val-0001.tar` or `imagenet-validation-0001.tar`; else train."""
    found = re.search(r"(?:^|[-_.])(train|valid|val|validation|test)(?=[-_.])", tar.name)
    return canonical_split(found[1]) if found else "train"


def _read_all(tars: Sequence[Path], label_field: str | None, progress: Progress) -> dict[Path, list[Record]]:
    records: dict[Path, list[Record]] = {}
    problems: list[str] = []
    for number, tar in enumerate(tars, start=1):
        records[tar], found = read_records(tar, label_field)
        problems += [f"{tar.name}: {problem}" for problem in found]
        progress.update("index", number, len(tars))
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ShardsError(f"{len(problems)} samples cannot be used: {'; '.join(problems[:3])}{more}")
    if not any(records.values()):
        raise ShardsError(f"{tars[0].parent}: no images in its tars")
    return records


def _class_names(labels: Iterable[Label], classes: Sequence[str] | None) -> tuple[str, ...]:
    if classes is not None:
        return tuple(classes)
    found = set(labels)
    names = {label for label in found if isinstance(label, str)}
    numbers = {label for label in found if isinstance(label, int)}
    if names and numbers:
        raise ShardsError(f"labels are names ({min(names)!r}) and numbers ({min(numbers)}); give the classes")
    if names:
        return tuple(sorted(names))
    if max(numbers) >= MAX_CLASSES or min(numbers) < 0:
        raise ShardsError(
            f"labels from {min(numbers)} to {max(numbers)} are not class numbers; choose another label field"
        )
    return tuple(str(number) for number in range(max(numbers) + 1))


def _number(tar: Path, record: Record, classes: Sequence[str]) -> int:
    number = label_number(record.label, classes)
    if number is None:
        nearest = difflib.get_close_matches(str(record.label), classes, n=1, cutoff=0.0)
        hint = f"; did you mean {nearest[0]!r}?" if isinstance(record.label, str) and nearest else ""
        raise ShardsError(f"{tar.name}: {record.key}: no class {record.label!r} among {len(classes)}{hint}")
    return number


def _measure(records: Mapping[Path, Sequence[Record]], progress: Progress) -> tuple[RGB, RGB]:
    images = [(tar, record) for tar, each in records.items() for record in each]
    chosen = seeded_order((f"{tar.name}/{record.key}" for tar, record in images), 0, "measure")[:MAX_MEASURED]
    sums = ChannelSums()
    for done, i in enumerate(sorted(chosen), start=1):
        tar, record = images[i]
        with tar.open("rb") as file:
            file.seek(record.offset)
            content = file.read(record.size)
        try:
            sums.add(decode_rgb(content))
        except ShardsError as error:
            raise ShardsError(f"{tar.name}: {record.key}: {error}") from None
        progress.update("measure", done, len(chosen))
    return sums.mean_std()
