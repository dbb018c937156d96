from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards.check import check
from shards.index import index
from shards.manifest import INDEX_DTYPE, ShardsError, read_index, read_manifest, write_index, write_manifest
from tests.shards.made import as_json, image_bytes, labelled, make_tar


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two train shards of three images, one test shard of two."""
    for name, numbers in (("train-0.tar", (0, 1, 2)), ("train-1.tar", (3, 4, 5)), ("test-0.tar", (6, 7))):
        make_tar(tmp_path / name, {k: v for number in numbers for k, v in labelled(number, number % 2).items()})
    index(tmp_path)
    return tmp_path


def rewrite(folder: Path, members: dict[str, bytes]) -> None:
    """Another train-1.tar, with a manifest that agrees: only the samples themselves are wrong."""
    tar = make_tar(folder / "train-1.tar", members)
    manifest = read_manifest(folder)
    content = tar.read_bytes()
    shards = [
        dataclasses.replace(shard, sha256=hashlib.sha256(content).hexdigest(), num_bytes=len(content))
        if shard.name == tar.name
        else shard
        for shard in manifest.shards
    ]
    write_manifest(folder, dataclasses.replace(manifest, shards=tuple(shards)))


def train_1_members(**changes: bytes | None) -> dict[str, bytes]:
    """Members of train-1.tar, changed by name with `_` for the dot and an n in front; None removes one."""
    members: dict[str, bytes | None] = {}
    for number in (3, 4, 5):
        members |= labelled(number, number % 2)
    members |= {name[1:].replace("_", "."): content for name, content in changes.items()}
    return {name: content for name, content in members.items() if content is not None}


def truncate(folder: Path) -> None:
    tar = folder / "train-1.tar"
    tar.write_bytes(tar.read_bytes()[:1200])


def flip_a_byte(folder: Path) -> None:
    tar = folder / "train-1.tar"
    content = bytearray(tar.read_bytes())
    content[-1] ^= 1
    tar.write_bytes(content)


def swap_labels_in_index(folder: Path) -> None:
    rows = read_index(folder / "train-1.tar").copy()
    rows["label"][1] = 1
    write_index(folder / "train-1.tar", rows)


def misnumber_classes(folder: Path) -> None:
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, class_counts={**manifest.class_counts, "test": (2, 0)}))


CORRUPTIONS: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncate, "train-1.tar: truncated or not a tar, 1200 bytes"),
    "hash": (flip_a_byte, "train-1.tar: hash mismatch: the content differs from manifest.json"),
    "missing shard": (lambda folder: (folder / "train-1.tar").unlink(), "train-1.tar: missing shard"),
    "extra shard": (lambda folder: make_tar(folder / "train-2.tar", labelled(9, 0)), "train-2.tar: extra shard"),
    "missing index": (lambda folder: (folder / "train-1.index.npy").unlink(), "train-1.tar: index: "),
    "short index": (
        lambda folder: write_index(folder / "train-1.tar", np.zeros(2, INDEX_DTYPE)),
        "train-1.tar: 3 images, but 2 in the index and 3 in manifest.json",
    ),
    "wrong index": (swap_labels_in_index, "train-1.tar: 0004: offset, size, label are "),
    "wrong counts": (misnumber_classes, "manifest.json: test: class counts differ from the tars"),
    "missing label": (lambda folder: rewrite(folder, train_1_members(n0004_cls=None)), "train-1.tar: 0004: no label"),
    "missing image": (lambda folder: rewrite(folder, train_1_members(n0004_jpg=None)), "train-1.tar: 0004: no image"),
    "undecodable": (
        lambda folder: rewrite(folder, train_1_members(n0004_jpg=image_bytes(4)[:-50])),
        "train-1.tar: 0004: image cannot be decoded",
    ),
    "out of range": (
        lambda folder: rewrite(folder, train_1_members(n0004_cls=b"2")),
        "train-1.tar: 0004: label 2 out of range",
    ),
    "unknown name": (
        lambda folder: rewrite(folder, train_1_members(n0004_cls=b"x")),
        "train-1.tar: 0004: label 'x' out of",
    ),
    "key of another shard": (
        lambda folder: rewrite(folder, labelled(1, 1) | labelled(4, 0) | labelled(5, 1)),
        "train-1.tar: 0001: duplicate key, also in train-0.tar",
    ),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_every_corruption_is_reported(folder: Path, name: str) -> None:
    assert check(folder) == []
    corrupt, expected = CORRUPTIONS[name]
    corrupt(folder)
    problems = check(folder)
    assert any(problem.startswith(expected) for problem in problems), problems
    assert all("\n" not in problem for problem in problems)
    assert not any(problem.startswith(("train-0.tar", "test-0.tar")) for problem in problems)


def test_repeated_key_in_one_shard_is_reported(folder: Path) -> None:
    again = {"0003.jpg": image_bytes(8), "0003.cls": b"1"}
    tar = make_tar(folder / "a.tar", labelled(3, 1) | labelled(4, 0))
    shutil.copy(make_tar(folder / "b.tar", again), folder / "second.bin")
    content = tar.read_bytes().rstrip(b"\0")
    content += bytes(-len(content) % 512) + (folder / "second.bin").read_bytes()
    for name in ("a.tar", "b.tar", "second.bin"):
        (folder / name).unlink()
    (folder / "train-1.tar").write_bytes(content)
    assert "train-1.tar: 0003: duplicate key, 2 times in this shard" in check(folder)


def test_folder_with_a_label_field_has_no_problems(tmp_path: Path) -> None:
    make_tar(tmp_path / "t.tar", {"a.jpg": image_bytes(0), "a.json": as_json(species="wolf")})
    index(tmp_path, label_field="species")
    assert check(tmp_path) == []


def test_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardsError, match=r"no manifest\.json"):
        check(tmp_path)
