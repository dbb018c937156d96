"""Read a whole folder of shards again and report problems."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shards.images import decode_rgb
from shards.manifest import MANIFEST_NAME, Manifest, Shard, ShardsError, read_index, read_manifest
from shards.progress import SILENT, Progress
from shards.samples import Record, hash_file, label_number, read_records


def check(folder: Path, progress: Progress = SILENT) -> list[str]:
    """A line per problem, `SHARD: KEY: message`. Raise ShardsError when there is no manifest.

    Hashes every tar, decodes every image (in threads), and compares both with manifest and indexes.
    """
    manifest = read_manifest(folder)
    problems: list[str] = []
    shard_of: dict[tuple[str, str], str] = {}
    counts = {split: [0] * len(manifest.classes) for split in manifest.splits}
    with ThreadPoolExecutor() as pool:
        checked = pool.map(lambda shard: _check_shard(folder / shard.name, shard, manifest), manifest.shards)
        for done, (shard, (found, records)) in enumerate(zip(manifest.shards, checked, strict=True), start=1):
            problems += [f"{shard.name}: {problem}" for problem in found]
            for record in records:
                first = shard_of.setdefault((shard.split, record.key), shard.name)
                if first != shard.name:
                    problems.append(f"{shard.name}: {record.key}: duplicate key, also in {first}")
                label = label_number(record.label, manifest.classes)
                if label is not None:
                    counts[shard.split][label] += 1
            progress.update("check", done, len(manifest.shards))
    for split, per_class in counts.items():
        if tuple(per_class) != tuple(manifest.class_counts[split]):
            problems.append(f"{MANIFEST_NAME}: {split}: class counts differ from the tars")
    extra = {path.name for path in folder.glob("*.tar")} - {shard.name for shard in manifest.shards}
    return problems + [f"{name}: extra shard, not in {MANIFEST_NAME}" for name in sorted(extra)]


def _check_shard(tar: Path, shard: Shard, manifest: Manifest) -> tuple[list[str], list[Record]]:
    if not tar.exists():
        return ["missing shard"], []
    problems = []
    if tar.stat().st_size != shard.num_bytes:
        problems.append(f"{tar.stat().st_size} bytes, but {shard.num_bytes} in {MANIFEST_NAME}")
    if hash_file(tar) != shard.sha256:
        problems.append(f"hash mismatch: the content differs from {MANIFEST_NAME}")
    try:
        records, unusable = read_records(tar, manifest.label_field)
    except ShardsError as error:
        return [*problems, str(error).removeprefix(f"{tar.name}: ")], []
    problems += unusable
    keys = Counter(record.key for record in records)
    problems += [f"{key}: duplicate key, {count} times in this shard" for key, count in keys.items() if count > 1]
    problems += _check_index(tar, shard, records, manifest)
    with tar.open("rb") as file:
        for record in records:
            if label_number(record.label, manifest.classes) is None:
                problems.append(f"{record.key}: label {record.label!r} out of range, {len(manifest.classes)} classes")
            file.seek(record.offset)
            try:
                decode_rgb(file.read(record.size))
            except ShardsError as error:
                problems.append(f"{record.key}: image {error}")
    return problems, records


def _check_index(tar: Path, shard: Shard, records: list[Record], manifest: Manifest) -> list[str]:
    try:
        rows = read_index(tar)
    except ShardsError as error:
        return [f"index: {error}"]
    if not len(rows) == len(records) == shard.num_images:
        return [f"{len(records)} images, but {len(rows)} in the index and {shard.num_images} in {MANIFEST_NAME}"]
    expected = [(record.offset, record.size, label_number(record.label, manifest.classes)) for record in records]
    triples = zip(records, expected, rows.tolist(), strict=True)
    return [
        f"{record.key}: offset, size, label are {in_tar}, but {in_index} in the index"
        for record, in_tar, in_index in triples
        if in_tar != in_index
    ]
