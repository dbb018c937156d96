from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import wids
from PIL import Image

from shards.manifest import ShardsError, read_index, read_manifest
from shards.progress import NullProgress
from shards.sources import PackOptions, open_source
from shards.write import pack, prepare
from tests.shards.made import image_bytes, make_folder, read_webdataset

SMALL = PackOptions(images_per_shard=8, split={"train": "rest", "test": 4})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def by_index(folder: Path, split: str) -> list[tuple[bytes, int]]:
    """Images and labels as our readers find them: by offset and size alone."""
    found = []
    for shard in read_manifest(folder).shards_of(split):
        content = (folder / shard.name).read_bytes()
        rows = read_index(folder / shard.name)
        assert len(rows) == shard.num_images
        found += [(content[row["offset"] :][: row["size"]], int(row["label"])) for row in rows]
    return found


def test_index_tarfile_webdataset_and_wids_read_the_same_images(tmp_path: Path) -> None:
    manifest = pack("synthetic:3x10x24", tmp_path / "out", SMALL)
    folder = tmp_path / "out"
    assert [shard.name for shard in manifest.shards] == [
        "train-00000.tar",
        "train-00001.tar",
        "train-00002.tar",
        "test-00000.tar",
        "test-00001.tar",
    ]
    tars = [folder / shard.name for shard in manifest.shards_of("train")]
    ours = by_index(folder, "train")
    assert len(ours) == 18
    members: dict[str, bytes] = {}
    for tar in tars:
        with tarfile.open(tar) as archive:
            for info in archive:
                file = archive.extractfile(info)
                assert file is not None
                members[info.name] = file.read()
    assert [content for name, content in members.items() if name.endswith(".jpg")] == [image for image, _ in ours]
    assert [int(content) for name, content in members.items() if name.endswith(".cls")] == [label for _, label in ours]
    assert [(sample["jpg"], int(sample["cls"])) for sample in read_webdataset(*tars)] == ours
    listed = [
        {"url": str(tar), "nsamples": shard.num_images} for tar, shard in zip(tars, manifest.shards, strict=False)
    ]
    indexed = wids.ShardListDataset(listed, cache_dir=str(folder), keep=True, transformations=[])
    samples = [indexed[i] for i in range(len(indexed))]
    assert [(sample[".jpg"].getvalue(), int(sample[".cls"].getvalue())) for sample in samples] == ours
    for shard in indexed.cache.lru.values():
        shard.close()


def test_manifest_agrees_with_the_tars(tmp_path: Path) -> None:
    make_folder(tmp_path / "in", {"a": 12, "b": 9})
    manifest = pack(f"imagefolder:{tmp_path / 'in'}", tmp_path / "out", SMALL)
    assert manifest == read_manifest(tmp_path / "out")
    assert manifest.classes == ("a", "b")
    assert manifest.class_counts == {"train": (8, 5), "test": (4, 4)}
    for shard in manifest.shards:
        content = (tmp_path / "out" / shard.name).read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (shard.sha256, shard.num_bytes)
    files = [path for name, start in (("a", 4), ("b", 4)) for path in sorted((tmp_path / "in" / name).iterdir())]
    originals = {path.read_bytes(): path for path in files}
    packed = [originals[image] for image, _ in by_index(tmp_path / "out", "train")]
    assert len(set(packed)) == 13
    pixels = np.concatenate([np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3) for path in packed]) / 255
    np.testing.assert_allclose(manifest.mean, pixels.mean(0))
    np.testing.assert_allclose(manifest.std, pixels.std(0))


def test_channel_statistics_are_of_at_most_max_measured_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two images, black and white: with one measured, the mean is 0 or 1 and nothing deviates."""
    (tmp_path / "in" / "a").mkdir(parents=True)
    for value in (0, 255):
        Image.new("RGB", (2, 2), (value, value, value)).save(tmp_path / "in" / "a" / f"{value}.png")
    options = PackOptions(split={"train": "rest"})
    whole = pack(f"imagefolder:{tmp_path / 'in'}", tmp_path / "whole", options)
    assert (whole.mean, whole.std) == ((0.5,) * 3, (0.5,) * 3)
    monkeypatch.setattr("shards.write.MAX_MEASURED", 1)
    sampled = pack(f"imagefolder:{tmp_path / 'in'}", tmp_path / "sampled", options)
    assert sampled.mean[0] in (0, 1)
    assert sampled.std == (0, 0, 0)


def test_train_is_shuffled_by_the_seed_and_test_is_not(tmp_path: Path) -> None:
    orders = []
    for seed in (0, 1):
        options = PackOptions(images_per_shard=30, split={"train": 25, "test": "rest"}, seed=seed)
        folder = tmp_path / str(seed)
        pack("digits", folder, options)
        orders.append([label for _, label in by_index(folder, "train")])
        test = [label for _, label in by_index(folder, "test")]
        assert test == sorted(test)
        assert all(len(set(orders[-1][i : i + 30])) >= 6 for i in range(0, 240, 30))
    assert orders[0] != orders[1]


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    pack("synthetic:2x10x16", tmp_path / "a", SMALL)
    code = f"""
import pathlib, shards.write as w
w.pack("synthetic:2x10x16", pathlib.Path({str(tmp_path / "b")!r}),
       w.PackOptions(images_per_shard=8, split={{"test": 4, "train": "rest"}}))"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_max_side_shrinks_only_larger_images(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", {"a": 2})
    (folder / "a" / "big.jpg").write_bytes(image_bytes(7, (80, 60)))
    options = PackOptions(max_side=24, split={"train": "rest"})
    manifest = pack(f"imagefolder:{folder}", tmp_path / "out", options)
    assert manifest.max_side == 24
    images = {image for image, _ in by_index(tmp_path / "out", "train")}
    small = {(folder / "a" / f"00{i}.jpg").read_bytes() for i in range(2)}
    assert small < images
    assert Image.open(io.BytesIO((images - small).pop())).size == (24, 18)


def test_packing_again_keeps_the_shards_or_is_refused(tmp_path: Path) -> None:
    lines: list[str] = []

    class Notes(NullProgress):
        def note(self, line: str) -> None:
            lines.append(line)

    dest = tmp_path / "out"
    first = pack("synthetic:2x10x16", dest, SMALL)
    before = {path: path.stat().st_mtime_ns for path in dest.iterdir()}
    assert pack("synthetic:2x10x16", dest, SMALL, Notes()) == first
    assert lines == [f"{dest}: already packed"]
    with pytest.raises(ShardsError, match="choose another folder"):
        pack("synthetic:2x11x16", dest, SMALL)
    with pytest.raises(ShardsError, match="choose another folder"):
        pack("synthetic:2x10x16", dest, PackOptions())
    assert {path: path.stat().st_mtime_ns for path in dest.iterdir()} == before


def test_folder_with_other_content_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for function in (pack, prepare):
        with pytest.raises(ShardsError, match="has other content"):
            function("synthetic:2x10x16", tmp_path, SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_empty_folder_is_packed_into(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert pack("synthetic:2x10x16", tmp_path / "out", SMALL).num_images("test") == 8


def test_image_that_cannot_be_packed_is_named(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", {"a": 3})
    (folder / "a" / "broken.jpg").write_bytes(image_bytes(0)[:-30])
    with pytest.raises(
        ShardsError, match=r"train: a-broken-\d+: cannot be decoded .*; repair .*a/broken.jpg, or remove it"
    ):
        pack(f"imagefolder:{folder}", tmp_path / "out", PackOptions(split={"train": "rest"}))
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.partial").exists()
    (folder / "a" / "broken.jpg").write_bytes(b"")
    (folder / "a" / "zz.jpg").write_bytes(image_bytes(9))
    with pytest.raises(ShardsError, match=r"valid: a-broken-\d+: the image is empty"):
        pack(f"imagefolder:{folder}", tmp_path / "out", PackOptions(split={"train": 3, "valid": 1, "test": 1}))
    with pytest.raises(ShardsError, match="images_per_shard is 0"):
        pack("digits", tmp_path / "out", PackOptions(images_per_shard=0))


KILLED = """
import os, pathlib, signal, sys
from shards.progress import NullProgress
from shards.write import PackOptions, pack
class Killer(NullProgress):
    def update(self, task, done, total):
        if done == 12:
            os.kill(os.getpid(), signal.SIGKILL)
options = PackOptions(images_per_shard=8, split={"train": "rest", "test": 4})
pack("synthetic:2x10x16", pathlib.Path(sys.argv[1]), options, Killer())
"""


def test_killed_pack_leaves_no_folder_and_starts_over(tmp_path: Path) -> None:
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert killed.returncode == -9
    assert not (tmp_path / "out").exists()
    partial = contents(tmp_path / "out.partial")
    assert "train-00000.index.npy" in partial
    assert "manifest.json" not in partial
    (tmp_path / "out.partial" / "train-00099.tar").write_bytes(b"of an older, longer pack")
    pack("synthetic:2x10x16", tmp_path / "out", SMALL)
    pack("synthetic:2x10x16", tmp_path / "uninterrupted", SMALL)
    assert contents(tmp_path / "out") == contents(tmp_path / "uninterrupted")
    assert not (tmp_path / "out.partial").exists()


PREPARING = """
import pathlib, sys
from shards.progress import NullProgress
from shards.write import PackOptions, prepare
class Packer(NullProgress):
    has_printed = False
    def update(self, task, done, total):
        if not self.has_printed:
            print("packing", end=" ")
        self.has_printed = True
sys.stdin.read()  # all start at once
print(prepare("synthetic:4x50x64", pathlib.Path(sys.argv[1]), PackOptions(), Packer()).sha256)
"""


def test_one_of_many_processes_packs(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PREPARING, str(tmp_path / "out")]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
    outputs = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert sorted(len(words) for words in outputs) == [1, 1, 1, 2]
    assert {words[-1] for words in outputs} == {read_manifest(tmp_path / "out").sha256}


def test_prepare_keeps_existing_shards(tmp_path: Path) -> None:
    made = pack("synthetic:2x10x16", tmp_path / "out", SMALL)
    assert prepare("digits", tmp_path / "out", PackOptions()) == made
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["source"].startswith("synthetic:2x10x16 ")


def test_keys_are_unique_and_plain(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "in", {"Ünïcode class. with dots": 1, "b" * 90: 1})
    for name in ("a.b.jpg", "a_b.jpg", "a-b.JPG", "c" * 200 + ".jpg"):
        (folder / ("b" * 90) / name).write_bytes(image_bytes(len(name)))
    source = open_source(f"imagefolder:{folder}", PackOptions(split={"train": "rest"}))
    keys = [item.key for item in source.splits["train"]]
    assert len(set(keys)) == 6
    assert all(key.isascii() and "." not in key and "/" not in key and len(key) < 90 for key in keys)
    pack(f"imagefolder:{folder}", tmp_path / "out", PackOptions(split={"train": "rest"}))
    assert len(read_webdataset(tmp_path / "out" / "train-00000.tar")) == 6
