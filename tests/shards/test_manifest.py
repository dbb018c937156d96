from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards.files import open_atomically, write_atomically
from shards.manifest import (
    INDEX_DTYPE,
    Manifest,
    Shard,
    ShardsError,
    index_path,
    read_index,
    read_manifest,
    write_index,
    write_manifest,
)
from tests.harness.small_disk import mount_small

MANIFEST = Manifest(
    source="digits seed=0",
    classes=("a", "b"),
    shards=(
        Shard("train-00000.tar", "train", 3, 10240, "00"),
        Shard("test-00000.tar", "test", 1, 5120, "11"),
        Shard("train-00001.tar", "train", 2, 10240, "22"),
    ),
    class_counts={"train": (2, 3), "test": (1, 0)},
    mean=(0.5, 0.25, 0.125),
    std=(0.1, 0.2, 0.3),
)


def test_written_manifest_is_read_back(tmp_path: Path) -> None:
    written = dataclasses.replace(MANIFEST, max_side=256, label_field="species")
    write_manifest(tmp_path, written)
    assert read_manifest(tmp_path) == written
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_manifest_without_label_field_is_read(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    raw = json.loads((tmp_path / "manifest.json").read_text())
    del raw["label_field"]
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    assert read_manifest(tmp_path) == MANIFEST


def test_manifest_knows_its_splits_shards_and_counts() -> None:
    assert MANIFEST.splits == ("train", "test")
    assert [shard.name for shard in MANIFEST.shards_of("train")] == ["train-00000.tar", "train-00001.tar"]
    assert (MANIFEST.num_images("train"), MANIFEST.num_images("test"), MANIFEST.num_images("valid")) == (5, 1, 0)
    assert MANIFEST.sha256 != dataclasses.replace(MANIFEST, classes=("b", "a")).sha256


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no manifest.json here"),
        ("{", "cannot be read"),
        ("[]", "not a shards manifest"),
        ('{"format": 99}', "not a shards manifest"),
        ('{"format": 1}', "damaged"),
        ('{"format": 1, "source": "", "classes": [], "shards": [{"name": "a"}]}', "damaged"),
    ],
)
def test_wrong_manifest_is_refused_in_one_line(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ShardsError, match=words) as caught:
        read_manifest(tmp_path)
    assert "\n" not in str(caught.value)
    assert "python -m shards" in str(caught.value)


def test_written_index_is_read_back(tmp_path: Path) -> None:
    rows = np.array([(512, 100, 3), (2**40, 7, 0)], INDEX_DTYPE)
    write_index(tmp_path / "train-00000.tar", rows)
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.index.npy"]
    assert read_index(tmp_path / "train-00000.tar").tolist() == [(512, 100, 3), (2**40, 7, 0)]


def test_wrong_index_is_refused(tmp_path: Path) -> None:
    tar = tmp_path / "a.tar"
    with pytest.raises(ShardsError, match="cannot be read"):
        read_index(tar)
    np.save(index_path(tar), np.zeros(3))
    with pytest.raises(ShardsError, match="not a shard index"):
        read_index(tar)
    np.save(index_path(tar), np.array([object()]), allow_pickle=True)
    with pytest.raises(ShardsError, match="cannot be read"):
        read_index(tar)


def test_last_of_several_writers_wins(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with open_atomically(path) as first:
        first(b"first ")
        with open_atomically(path) as second:
            second(b"second ")
            first(b"of all")
            second(b"whole")
        assert path.read_bytes() == b"second whole"
    assert path.read_bytes() == b"first of all"
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_names_the_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    with mount_small(tmp_path / "disk", 3 * 4096) as disk:
        write_atomically(disk / "file", b"before")
        for content in (bytes(5 * 4096), bytes(2 * 4096 + 1)):
            with pytest.raises(OSError, match="No space left") as caught:
                write_atomically(disk / "file", content)
            assert caught.value.filename == str(disk / "file")
            assert list(disk.iterdir()) == [disk / "file"]
        assert (disk / "file").read_bytes() == b"before"
        write_atomically(disk / "other", bytes(4096))


def test_leftovers_of_killed_processes_are_removed(tmp_path: Path) -> None:
    old, young, others = (tmp_path / name for name in (".a.3f9a1c2d.half", ".b.3f9a1c2d.half", ".a.tmp"))
    for path in (old, young, others):
        path.write_text("half")
    for path in (old, others):
        os.utime(path, (0, 0))
    write_atomically(tmp_path / "c", b"")
    assert {path.name for path in tmp_path.iterdir()} == {young.name, others.name, "c"}


def test_light_imports_stay_light() -> None:
    code = (
        "import sys, shards.manifest; assert not {'torch', 'rich', 'webdataset', 'PIL'} & set(sys.modules)\n"
        "import shards.write; shards.write.check_source_name('torchvision:CIFAR10')\n"
        "assert not {'torch', 'rich', 'webdataset', 'torchvision', 'sklearn', 'launcher'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
