from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from shards.index import index, split_of
from shards.manifest import ShardsError, read_index, read_manifest
from tests.shards.made import as_json, gnu_tar, image_bytes, labelled, make_tar, read_webdataset


def packed_images_of(tar: Path) -> list[tuple[bytes, int]]:
    """Images and labels by the index alone."""
    content = tar.read_bytes()
    return [(content[offset : offset + size], label) for offset, size, label in read_index(tar).tolist()]


def test_shards_of_the_webdataset_writer_are_indexed(tmp_path: Path) -> None:
    written = [(image_bytes(i), i % 3) for i in range(10)]
    with webdataset.ShardWriter(f"{tmp_path}/train-%04d.tar", maxcount=4, verbose=0) as writer:
        for i, (image, label) in enumerate(written):
            writer.write({"__key__": f"sample{i}", "jpg": image, "cls": label})
    manifest = index(tmp_path)
    assert manifest == read_manifest(tmp_path)
    assert [shard.num_images for shard in manifest.shards] == [4, 4, 2]
    assert (manifest.classes, manifest.class_counts) == (("0", "1", "2"), {"train": (4, 3, 3)})
    assert [pair for shard in manifest.shards for pair in packed_images_of(tmp_path / shard.name)] == written
    pixels = np.concatenate([np.asarray(Image.open(io.BytesIO(image))).reshape(-1, 3) for image, _ in written]) / 255
    np.testing.assert_allclose(manifest.mean, pixels.mean(0))
    np.testing.assert_allclose(manifest.std, pixels.std(0))


@pytest.mark.parametrize("tar_format", ["gnu", "pax", "ustar"])
def test_tar_with_folders_dots_and_long_names_is_indexed(tmp_path: Path, tar_format: str) -> None:
    deep = "v1.0/" + "d" * 60 + "/" + "e" * 60
    (tmp_path / "in" / deep).mkdir(parents=True)
    stems = [f"{deep}/a", f"{deep}/{'f' * 90}", "v1.0/b"]
    names = []
    for number, stem in enumerate(stems):
        (tmp_path / "in" / f"{stem}.PNG").write_bytes(image_bytes(number, file_format="PNG"))
        (tmp_path / "in" / f"{stem}.cls").write_text(f"{number}\n")
        names += [f"./{stem}.PNG", f"./{stem}.cls"]
    tar = gnu_tar(tmp_path / "some.tar", tmp_path / "in", names, f"--format={tar_format}")
    manifest = index(tmp_path)
    assert manifest.class_counts == {"train": (1, 1, 1)}
    assert packed_images_of(tar) == [(image_bytes(number, file_format="PNG"), number) for number in range(3)]
    assert [sample["png"] for sample in read_webdataset(tar)] == [image for image, _ in packed_images_of(tar)]


def test_links_folders_and_strange_names_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "x.jpg").write_bytes(image_bytes(0))
    (tmp_path / "in" / "a" / "x.cls").write_text("0")
    (tmp_path / "in" / "link.jpg").symlink_to("/etc/passwd")
    with (tmp_path / "in" / "hole.jpg").open("wb") as file:
        file.truncate(1 << 20)
    (tmp_path / "in" / ".hidden").write_text("no key")
    (tmp_path / "in" / "README").write_text("no extension")
    names = ["link.jpg", "hole.jpg", ".hidden", "README", "a"]
    tar = gnu_tar(tmp_path / "t.tar", tmp_path / "in", names, "--sparse", "--sort=name")
    with tarfile.open(tar, "a") as archive:
        for name, content in {"../up.jpg": image_bytes(1), "../up.cls": b"1", "__meta__/x.jpg": b"?"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    before = sorted(tmp_path.parent.iterdir())
    assert index(tmp_path).class_counts == {"train": (1, 1)}
    assert packed_images_of(tar) == [(image_bytes(0), 0), (image_bytes(1), 1)]
    assert sorted(tmp_path.parent.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == {"in", "t.tar", "t.index.npy", "manifest.json"}


def test_members_of_a_sample_come_in_any_order(tmp_path: Path) -> None:
    members = {
        "a.cls": b"1",
        "a.txt": b"?",
        "a.jpg": image_bytes(0),
        "b.jpg": image_bytes(1),
        "b.mask.jpg": b"?",
        "b.cls": b"0",
    }
    tar = make_tar(tmp_path / "t.tar", members)
    index(tmp_path)
    assert packed_images_of(tar) == [(image_bytes(0), 1), (image_bytes(1), 0)]


@pytest.mark.parametrize("field", ["label", "cls", "class", "class_id"])
def test_labels_are_read_from_json(tmp_path: Path, field: str) -> None:
    members = {"0.jpg": image_bytes(0), "0.json": as_json(**{field: 2, "caption": "x"})}
    tar = make_tar(tmp_path / "00000.tar", members)
    manifest = index(tmp_path)
    assert manifest.classes == ("0", "1", "2")
    assert packed_images_of(tar) == [(image_bytes(0), 2)]


def test_given_json_field_wins_and_names_are_sorted(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for number, species in enumerate(["wolf", "bear", "wolf"]):
        members |= {
            f"{number}.jpg": image_bytes(number),
            f"{number}.cls": b"7",
            f"{number}.json": as_json(species=species),
        }
    tar = make_tar(tmp_path / "t.tar", members)
    manifest = index(tmp_path, label_field="species")
    assert (manifest.classes, manifest.label_field) == (("bear", "wolf"), "species")
    assert [label for _, label in packed_images_of(tar)] == [1, 0, 1]
    assert index(tmp_path, label_field="species", classes=["wolf", "eel", "bear"]).class_counts == {"train": (2, 0, 1)}
    with pytest.raises(ShardsError, match=r"t.tar: 1: no class 'bear' among 2; did you mean 'beer'"):
        index(tmp_path, label_field="species", classes=["wolf", "beer"])


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train-00000.tar", "train"),
        ("val-1.tar", "valid"),
        ("valid_1.tar", "valid"),
        ("validation.tar", "valid"),
        ("test-0.tar", "test"),
        ("imagenet1k-validation-07.tar", "valid"),
        ("00000.tar", "train"),
        ("testing-0.tar", "train"),
        ("contest-0.tar", "train"),
    ],
)
def test_name_of_a_tar_gives_its_split(name: str, split: str) -> None:
    assert split_of(Path("/test-data", name)) == split


def test_splits_are_counted_apart_and_mean_is_of_train(tmp_path: Path) -> None:
    buffers = {}
    for name, value in (("train", 51), ("val", 255), ("test", 255)):
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (value, value, value)).save(buffer, format="PNG")
        buffers[name] = {"x.png": buffer.getvalue(), "x.cls": b"1"}
        make_tar(tmp_path / f"{name}-0.tar", buffers[name])
    manifest = index(tmp_path)
    assert manifest.class_counts == {"train": (0, 1), "valid": (0, 1), "test": (0, 1)}
    assert [shard.name for shard in manifest.shards] == ["train-0.tar", "val-0.tar", "test-0.tar"]
    np.testing.assert_allclose((*manifest.mean, *manifest.std), [0.2] * 3 + [0.0] * 3, atol=1e-12)


@pytest.mark.parametrize("keep", [1, 700, 3000, -10240, -1500])
def test_truncated_tar_is_reported_with_the_byte(tmp_path: Path, keep: int) -> None:
    tar = make_tar(tmp_path / "t.tar", {**labelled(0, 0), **labelled(1, 1)})
    content = tar.read_bytes().rstrip(b"\0")
    tar.write_bytes(content[:keep])
    with pytest.raises(ShardsError, match=r"t\.tar: .*\b\d+\b"):
        index(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_tar_without_end_mark_is_truncated(tmp_path: Path) -> None:
    """Cut between two members, which tarfile itself accepts."""
    whole = make_tar(tmp_path / "t.tar", labelled(0, 0))
    with tarfile.open(whole) as archive:
        second = archive.getmembers()[1].offset
    whole.write_bytes(whole.read_bytes()[:second])
    with pytest.raises(ShardsError, match=f"truncated at byte {second}"):
        index(tmp_path)


def test_damaged_header_is_reported_with_the_byte(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "t.tar", labelled(0, 0))
    with tarfile.open(tar) as archive:
        second = archive.getmembers()[1].offset
    content = bytearray(tar.read_bytes())
    content[second + 10] ^= 0xFF
    tar.write_bytes(content)
    with pytest.raises(ShardsError, match=f"damaged header at byte {second}"):
        index(tmp_path)


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ({"a.jpg": b"x"}, "a: no label"),
        ({"a.jpg": b"x", "b.cls": b"0"}, r"2 samples.*a: no label.*b: no image"),
        ({"a.jpg": b"x", "a.png": b"x", "a.cls": b"0"}, "a: both .jpg and .png"),
        ({"a.jpg": b"", "a.cls": b"0"}, "a: the image is empty"),
        ({"a.jpg": b"x", "a.cls": b" "}, "a: no label, it is empty"),
        ({"a.jpg": b"x", "a.cls": b"\xff"}, "a: the label is not text"),
        ({"a.jpg": b"x", "a.json": b"{"}, "a: no label, its .json cannot be parsed"),
        ({"a.jpg": b"x", "a.json": b"[1]"}, "a: no label, its .json has no label, cls"),
        ({"a.jpg": b"x", "a.json": b'{"label": true}'}, "a: no label"),
        ({f"{i}.jpg": b"x" for i in range(9)}, "9 samples.*and 6 more"),
        ({"a.jpg": b"x", "a.cls": b"-1"}, "labels from -1 to -1 are not class numbers"),
        ({"a.jpg": b"x", "a.cls": b"123456789"}, "are not class numbers; choose another label field"),
        ({"a.jpg": b"x", "a.cls": b"1", "b.jpg": b"x", "b.cls": b"cat"}, r"names \('cat'\) and numbers \(1\)"),
        ({"a.txt": b"x"}, "a: no image"),
        ({"a": b"x"}, "no images in its tars"),
        ({"a.jpg": b"x", "a.cls": b"0"}, r"t.tar: a: cannot be decoded"),
    ],
)
def test_unusable_samples_are_reported(tmp_path: Path, members: dict[str, bytes], words: str) -> None:
    make_tar(tmp_path / "t.tar", members)
    with pytest.raises(ShardsError, match=words):
        index(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_folder_without_tars_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train-0.tar.gz").write_bytes(b"")
    with pytest.raises(ShardsError, match=r"no \.tar files here"):
        index(tmp_path)


def test_compressed_tar_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "t.tar", "w:gz"):
        pass
    with pytest.raises(ShardsError, match="not a tar"):
        index(tmp_path)
