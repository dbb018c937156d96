"""Images by their ids from tars of any tool, and damaged ones."""

from __future__ import annotations

import errno
import gc
import io
import json
import os
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from launcher.data import reader as reader_module
from launcher.data.reader import Sample, ShardReader
from launcher.errors import DataError
from shards.index import index
from shards.manifest import index_path, read_index, read_manifest, write_index
from tests.data.made import encode, pack_synthetic


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reader") / "shards"
    pack_synthetic(folder)
    return folder


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A copy to damage: two train shards and more."""
    pack_synthetic(tmp_path / "shards", images_per_shard=21)
    return tmp_path / "shards"


def reader_of(folder: Path, split: str = "train") -> ShardReader:
    return ShardReader(folder, read_manifest(folder), split)


def read_with_tarfile(folder: Path, split: str) -> list[tuple[bytes, int]]:
    """Every image and label of a split by the standard library, in the manifest's order."""
    found: list[tuple[bytes, int]] = []
    for shard in read_manifest(folder).shards_of(split):
        with tarfile.open(folder / shard.name) as archive:
            members = {member.name: archive.extractfile(member) for member in archive.getmembers()}
            content = {name: file.read() for name, file in members.items() if file is not None}
        images = [name for name in content if not name.endswith(".cls")]
        found += [(content[name], int(content[f"{name.rpartition('.')[0]}.cls"])) for name in images]
    return found


def pairs(samples: list[Sample]) -> list[tuple[bytes, int]]:
    return [(sample.content, sample.label) for sample in samples]


def open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize(("split", "num"), [("train", 42), ("valid", 9), ("test", 9)])
def test_bytes_and_labels_equal_those_of_tarfile(packed: Path, split: str, num: int) -> None:
    reader = reader_of(packed, split)
    assert reader.num_images == num
    assert pairs([reader.read(i) for i in range(num)]) == read_with_tarfile(packed, split)


def test_digits_equal_those_of_tarfile(digits: Path) -> None:
    reader = reader_of(digits, "valid")
    assert pairs([reader.read(i) for i in range(reader.num_images)]) == read_with_tarfile(digits, "valid")


@pytest.mark.parametrize(
    ("sample_id", "place"),
    [
        (0, "0.tar: image 0"),
        (6, "0.tar: image 6"),
        (7, "1.tar: image 0"),
        (41, "5.tar: image 6"),
    ],
)
def test_ids_at_the_borders_of_shards_are_found(packed: Path, sample_id: int, place: str) -> None:
    assert reader_of(packed).read(sample_id).place == f"{packed}/train-0000{place}"


@pytest.mark.parametrize("sample_id", [-1, 42])
def test_an_id_outside_of_the_split_asserts(packed: Path, sample_id: int) -> None:
    with pytest.raises(AssertionError, match="among 42"):
        reader_of(packed).read(sample_id)


def test_threads_read_the_right_bytes_while_shards_are_closed(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "MAX_OPEN_SHARDS", 2)  # of 6: most reads close a shard of other threads
    reader, expected = reader_of(packed), read_with_tarfile(packed, "train")
    ids = np.random.default_rng(0).integers(0, 42, 6000).tolist()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.read, ids))
    assert pairs(found) == [expected[i] for i in ids]


def test_current_is_the_image_read_for_longest(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that does not answer: the second image's read lasts until `may_end`."""
    reader, pread, may_end, order = reader_of(packed), os.pread, threading.Event(), []

    def slow(descriptor: int, size: int, offset: int) -> bytes:
        order.append(reader.current())
        assert len(order) < 2 or may_end.wait(30)
        return pread(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", slow)
    assert reader.current() is None
    reader.read(20)
    with ThreadPoolExecutor(2) as pool:
        pool.submit(reader.read, 3)
        while len(order) < 2:
            time.sleep(0.001)
        pool.submit(reader.read, 4)
        while len(order) < 3:
            time.sleep(0.001)
        assert reader.current() == "train-00000.tar: image 3"
        may_end.set()
    assert reader.current() is None
    assert order[0] == f"{reader.read(20).place.rpartition('/')[2]}"


def test_open_files_are_limited_and_closed_with_the_reader(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "MAX_OPEN_SHARDS", 2)
    gc.collect()
    before = open_descriptors()
    reader = reader_of(packed)
    for i in range(reader.num_images):
        reader.read(i)
    assert open_descriptors() == before + 2
    del reader
    gc.collect()
    assert open_descriptors() == before


def test_a_shard_stays_open_between_reads(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = reader_of(packed)
    reader.read(0)
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened again"))
    assert reader.read(1).content


def check_one_line(folder: Path, sample_id: int, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        reader_of(folder).read(sample_id)
    assert "\n" not in str(error.value)
    assert "python -m shards" in str(error.value)
    assert str(folder) in str(error.value)


def test_a_truncated_tar_raises_data_error(broken: Path) -> None:
    tar = broken / "train-00000.tar"
    os.truncate(tar, int(read_index(tar)["offset"][20]) + 1)
    assert reader_of(broken).read(19).content
    check_one_line(broken, 20, r"train-00000\.tar: image 20: the tar is truncated")


def test_a_missing_tar_raises_data_error(broken: Path) -> None:
    (broken / "train-00001.tar").unlink()
    assert reader_of(broken).read(20).content
    check_one_line(broken, 21, r"train-00001\.tar: cannot be opened \(No such file")


def test_a_missing_index_raises_data_error(broken: Path) -> None:
    index_path(broken / "train-00000.tar").unlink()
    check_one_line(broken, 0, r"train-00000\.index\.npy: cannot be read")


@pytest.mark.parametrize("keep", [1, 100, 300])
def test_a_truncated_index_raises_data_error(broken: Path, keep: int) -> None:
    os.truncate(index_path(broken / "train-00000.tar"), keep)
    check_one_line(broken, 0, r"train-00000\.index\.npy: cannot be read")


def test_an_index_of_too_few_images_raises_data_error(broken: Path) -> None:
    tar = broken / "train-00000.tar"
    write_index(tar, np.array(read_index(tar)[:5]))
    check_one_line(broken, 5, "image 5: its index has only 5 images")


@pytest.mark.parametrize(("field", "value"), [("offset", -1), ("offset", 1 << 60), ("size", -5), ("size", 1 << 60)])
def test_an_index_that_points_outside_of_its_tar_raises_data_error(broken: Path, field: str, value: int) -> None:
    tar = broken / "train-00000.tar"
    rows = np.array(read_index(tar))
    rows[field][3] = value
    write_index(tar, rows)
    check_one_line(broken, 3, "image 3: the tar is truncated")


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_that_is_not_a_class_raises_data_error(broken: Path, label: int) -> None:
    tar = broken / "train-00000.tar"
    rows = np.array(read_index(tar))
    rows["label"][0] = label
    write_index(tar, rows)
    check_one_line(broken, 0, f"image 0: label {label} is not one of 3 classes")


def test_a_failing_disk_raises_data_error(broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", fail)
    check_one_line(broken, 0, r"image 0: cannot be read \(Input/output error\)")


def image_of(number: int) -> bytes:
    return encode(Image.new("RGB", (4, 4), (number, 0, 0)), "PNG")


def test_tars_of_webdatasets_writer_are_read(tmp_path: Path) -> None:
    with webdataset.ShardWriter(f"{tmp_path}/train-%04d.tar", maxcount=2, verbose=0) as writer:
        for i in range(5):
            writer.write({"__key__": f"a/b.c/{i}", "png": image_of(i), "cls": i % 3})
    index(tmp_path)
    reader = reader_of(tmp_path)
    assert len(reader.shards) == 3
    assert pairs([reader.read(i) for i in range(5)]) == [(image_of(i), i % 3) for i in range(5)]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_tars_with_dots_folders_long_names_and_json_labels_are_read(tmp_path: Path, tar_format: int) -> None:
    long = "d" * 90 + "/" + "k" * 90
    with tarfile.open(tmp_path / "0001.tar", "w", format=tar_format) as archive:
        for number, key in enumerate(["./v1.2/cat", "x/y/z.v1/dog", long]):
            fields = json.dumps({"label": number, "caption": "ü"}).encode()
            for name, content in ((f"{key}.json", fields), (f"{key}.png", image_of(number))):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    index(tmp_path)
    reader = reader_of(tmp_path)
    assert pairs([reader.read(i) for i in range(3)]) == [(image_of(i), i) for i in range(3)]
