from __future__ import annotations

import hashlib
import io
import pickle
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision import datasets

from shards.manifest import ShardsError
from shards.sources import Item, Listing, PackOptions, check_source_name, describe, open_source
from tests.shards.made import image_bytes, make_folder


def labels_of(source: Listing, split: str) -> Counter[int]:
    return Counter(item.label for item in source.splits[split])


def decoded(item: Item) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(Image.open(io.BytesIO(item.read())))


def sizes_of(source: Listing) -> dict[str, int]:
    return {split: len(items) for split, items in source.splits.items()}


def make_cifar10(root: Path, monkeypatch: pytest.MonkeyPatch, per_batch: int = 100) -> np.ndarray[Any, Any]:
    """The train images of a CIFAR10 in the real format: five batches, a test batch, and hashes for torchvision."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    hashes: dict[str, str] = {}

    def write(name: str, content: dict[str, Any]) -> None:
        (folder / name).write_bytes(pickle.dumps(content))
        hashes[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()

    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    batches = [rng.integers(0, 256, (per_batch, 3072), dtype=np.uint8) for _ in names]
    for name, batch in zip(names, batches, strict=True):
        write(name, {"data": batch, "labels": [i % 10 for i in range(per_batch)]})
    words = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    write("batches.meta", {"label_names": words})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, hashes[name]] for name in names[:5]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", hashes["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": hashes["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return np.concatenate(batches[:5])


def make_caltech256(root: Path) -> Path:
    folders = {"009.bear": 8, "038.chimp": 7, "090.gorilla": 9, "257.clutter": 3}
    folder = make_folder(root / "caltech256" / "256_ObjectCategories", folders)
    (folder / "090.gorilla" / "RENAME2").write_text("a stray file of the real archive")
    return folder


def test_digits_are_those_of_scikit_learn() -> None:
    source = open_source("digits", PackOptions())
    assert source.classes == tuple("0123456789")
    assert sizes_of(source) == {"train": 1258, "valid": 269, "test": 270}
    bunch = load_digits()
    originals = {
        np.rint(image / 16 * 255).astype(np.uint8).tobytes(): label
        for image, label in zip(bunch.images, bunch.target, strict=True)
    }
    items = [item for split in source.splits.values() for item in split]
    assert len({item.key for item in items}) == len(items) == 1797
    assert all(originals[decoded(item).tobytes()] == item.label for item in items)
    counts = Counter(bunch.target.tolist())
    assert all(abs(labels_of(source, "train")[label] - 0.7 * counts[label]) < 2 for label in range(10))


def test_imagefolder_takes_file_order_and_any_spelling(tmp_path: Path) -> None:
    for name in ("2.jpg", "10.JPG", "deep/a.JPEG", "b.PNG", "c.webp", "notes.txt", "._2.jpg"):
        path = tmp_path / "009.bear" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    (tmp_path / "README.md").write_text("not a class")
    make_folder(tmp_path, {"cat": 1})
    source = open_source(f"imagefolder:{tmp_path}", PackOptions(split={"train": "rest"}))
    assert source.classes == ("009.bear", "cat")
    read = [item.read() for item in source.splits["train"] if item.label == 0]
    assert read == [b"10.JPG", b"2.jpg", b"b.PNG", b"c.webp", b"deep/a.JPEG"]
    extensions = [item.extension for item in source.splits["train"] if item.label == 0]
    assert extensions == ["jpg", "jpg", "png", "webp", "jpeg"]
    assert source.notes == ("3 files were ignored: they are not images in a class folder",)
    assert not any("." in item.key for item in source.splits["train"])


def test_imagefolder_official_splits_are_kept(tmp_path: Path) -> None:
    make_folder(tmp_path / "train", {"cat": 10, "dog": 20})
    make_folder(tmp_path / "val", {"dog": 2, "cat": 1})
    source = open_source(f"imagefolder:{tmp_path}", PackOptions())
    assert sizes_of(source) == {"train": 30, "valid": 3}
    assert labels_of(source, "valid") == {0: 1, 1: 2}
    divided = open_source(f"imagefolder:{tmp_path}", PackOptions(split={"train": "rest", "test": 0.1}))
    assert sizes_of(divided) == {"train": 27, "valid": 3, "test": 3}
    with pytest.raises(ShardsError, match="has an official valid split"):
        open_source(f"imagefolder:{tmp_path}", PackOptions(split={"train": "rest", "val": 0.1}))
    make_folder(tmp_path / "valid", {"dog": 1})
    with pytest.raises(ShardsError, match="more than one folder for valid"):
        open_source(f"imagefolder:{tmp_path}", PackOptions())


def test_unassigned_images_are_noted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"cat": 5, "dog": 4})
    source = open_source(f"imagefolder:{tmp_path}", PackOptions(split={"train": 2, "test": 1}))
    assert sizes_of(source) == {"train": 4, "test": 2}
    assert source.notes == ("3 images are unassigned: no split takes them",)


def test_class_may_be_called_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {"bus": 4, "train": 4})
    assert open_source(f"imagefolder:{tmp_path}", PackOptions(split={"train": "rest"})).classes == ("bus", "train")


def test_classes_are_chosen_and_numbered_by_name(tmp_path: Path) -> None:
    make_folder(tmp_path, {"009.bear": 3, "038.chimp": 4, "090.gorilla": 5})
    options = PackOptions(classes=("gorilla", "009.bear"), split={"train": "rest"})
    source = open_source(f"imagefolder:{tmp_path}", options)
    assert source.classes == ("gorilla", "009.bear")
    assert labels_of(source, "train") == {0: 5, 1: 3}
    gorilla = next(item for item in source.splits["train"] if item.label == 0)
    assert gorilla.read() == (tmp_path / "090.gorilla" / "000.jpg").read_bytes()


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (("gorila",), "did you mean 'gorilla'"),
        (("bear", "bear"), "name each class once; got bear, bear"),
        ((), "name each class once; got none"),
        (("owl",), "full name"),
    ],
)
def test_wrong_classes_are_refused(tmp_path: Path, classes: tuple[str, ...], words: str) -> None:
    make_folder(tmp_path, {"009.bear": 1, "090.gorilla": 1, "1.owl": 1, "2.owl": 1})
    with pytest.raises(ShardsError, match=words):
        open_source(f"imagefolder:{tmp_path}", PackOptions(classes=classes))


def test_empty_or_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardsError, match="not a folder"):
        open_source(f"imagefolder:{tmp_path / 'none'}", PackOptions())
    with pytest.raises(ShardsError, match="no images in class folders"):
        open_source(f"imagefolder:{tmp_path}", PackOptions())


def test_cifar10_divides_only_its_official_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train = make_cifar10(tmp_path, monkeypatch)
    options = PackOptions(root=tmp_path, download=False, split={"train": "rest", "valid": 0.1})
    source = open_source("torchvision:CIFAR10", options)
    assert sizes_of(source) == {"train": 450, "valid": 50, "test": 100}
    assert source.classes[:2] == ("airplane", "automobile")
    assert set(labels_of(source, "valid").values()) == {5}
    whole = open_source("torchvision:CIFAR10", PackOptions(root=tmp_path)).splits["train"]
    for number, item in enumerate(whole[:20]):  # the file has a plane per color, then rows
        assert item.extension == "png"
        assert (decoded(item) == train[number].reshape(3, 32, 32).transpose(1, 2, 0)).all()
        assert item.label == number % 10
    with pytest.raises(ShardsError, match="official test"):
        open_source("torchvision:CIFAR10", PackOptions(root=tmp_path, split={"train": "rest", "test": 0.1}))


def test_mnist_is_read_from_its_raw_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for prefix, n in (("train", 30), ("t10k", 10)):
        header = struct.pack(">4I", 0x803, n, 28, 28)
        (raw / f"{prefix}-images-idx3-ubyte").write_bytes(header + images[:n].tobytes())
        labels = bytes(i % 10 for i in range(n))
        (raw / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + labels)
    source = open_source("torchvision:MNIST", PackOptions(root=tmp_path, download=False))
    assert sizes_of(source) == {"train": 30, "test": 10}
    assert source.classes[3] == "3 - three"
    for number, item in enumerate(source.splits["train"]):
        assert (decoded(item) == images[number]).all()
        assert item.label == number % 10


def test_emnist_is_read_in_its_balanced_variant(tmp_path: Path) -> None:
    """Its `split` is a variant of the labels; `train` is passed by **kwargs."""
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    for variant in datasets.EMNIST.splits:
        for part, n in (("train", 6), ("test", 3)):
            prefix = raw / f"emnist-{variant}-{part}"
            Path(f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">4I", 0x803, n, 28, 28) + bytes(n * 784))
            Path(f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 0x801, n) + bytes(range(40, 40 + n)))
    source = open_source("torchvision:EMNIST", PackOptions(root=tmp_path, download=False))
    assert sizes_of(source) == {"train": 6, "test": 3}
    assert len(source.classes) == 47
    assert [source.classes[item.label] for item in source.splits["test"]] == ["f", "g", "h"]


def test_caltech256_counts_per_class_by_short_names(tmp_path: Path) -> None:
    folder = make_caltech256(tmp_path)
    options = PackOptions(
        root=tmp_path,
        download=False,
        classes=("bear", "chimp", "gorilla"),
        split={"train": 5, "valid": 1, "test": "rest"},
    )
    source = open_source("torchvision:Caltech256", options)
    assert sizes_of(source) == {"train": 15, "valid": 3, "test": 6}
    assert labels_of(source, "test") == {0: 2, 1: 1, 2: 3}
    expected = [(folder / "009.bear" / f"{i:03d}.jpg").read_bytes() for i in range(5)]
    assert [item.read() for item in source.splits["train"] if item.label == 0] == expected
    assert source.notes[0].startswith("1 files")


def test_file_datasets_keep_their_bytes(tmp_path: Path) -> None:
    """EuroSAT has `.samples`; DTD has `_image_files` and three official splits, one of them called val."""
    eurosat = make_folder(tmp_path / "eurosat" / "2750", {"Forest": 3, "River": 2})
    source = open_source("torchvision:EuroSAT", PackOptions(root=tmp_path, split={"train": "rest"}))
    assert [item.read() for item in source.splits["train"]] == [
        path.read_bytes() for path in sorted(eurosat.rglob("*.jpg"))
    ]
    dtd = make_folder(tmp_path / "dtd" / "dtd" / "images", {"banded": 3, "woven": 3})
    (tmp_path / "dtd" / "dtd" / "labels").mkdir()
    for number, split in enumerate(("train", "val", "test")):
        listed = f"banded/{number:03d}.jpg\nwoven/{number:03d}.jpg\n"
        (tmp_path / "dtd" / "dtd" / "labels" / f"{split}1.txt").write_text(listed)
    source = open_source("torchvision:DTD", PackOptions(root=tmp_path))
    assert sizes_of(source) == {"train": 2, "valid": 2, "test": 2}
    assert source.splits["valid"][1].read() == (dtd / "woven" / "001.jpg").read_bytes()
    assert source.splits["valid"][1].label == 1


def test_formats_that_are_not_packed_become_png(tmp_path: Path) -> None:
    """GTSRB has `_samples` of .ppm files, and a test set listed in a CSV file."""
    training = tmp_path / "gtsrb" / "GTSRB" / "Training"
    testing = tmp_path / "gtsrb" / "GTSRB" / "Final_Test" / "Images"
    for folder, name in ((training / "00000", "a.ppm"), (training / "00001", "b.ppm"), (testing, "c.ppm")):
        folder.mkdir(parents=True)
        (folder / name).write_bytes(image_bytes(len(str(folder)), file_format="PPM"))
    (tmp_path / "gtsrb" / "GT-final_test.csv").write_text("Filename;ClassId\nc.ppm;1\n")
    source = open_source("torchvision:GTSRB", PackOptions(root=tmp_path, download=False))
    assert sizes_of(source) == {"train": 2, "test": 1}
    assert source.classes == ("0", "1")
    assert (source.splits["test"][0].extension, source.splits["test"][0].label) == ("png", 1)
    assert (decoded(source.splits["test"][0]) == np.asarray(Image.open(testing / "c.ppm"))).all()


def test_missing_dataset_is_reported_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    for name in ("CIFAR10", "MNIST", "Caltech256", "OxfordIIITPet"):
        with pytest.raises(ShardsError, match=r"download failed.*pass root=FOLDER") as caught:
            open_source(f"torchvision:{name}", PackOptions(root=tmp_path))
        assert "\n" not in str(caught.value)
    with pytest.raises(ShardsError, match=r"not in .*pass root=FOLDER"):
        open_source("torchvision:CIFAR10", PackOptions(root=tmp_path, download=False))
    with pytest.raises(ShardsError, match="needs more arguments than root"):
        open_source("torchvision:CocoDetection", PackOptions(root=tmp_path))


def test_synthetic_classes_differ_in_color() -> None:
    source = open_source("synthetic:4x6", PackOptions(split={"train": "rest"}))
    assert labels_of(source, "train") == dict.fromkeys(range(4), 6)
    images = [Image.open(io.BytesIO(item.read())) for item in source.splits["train"]]
    assert all(280 <= image.width <= 360 and 224 <= image.height <= 288 for image in images)
    assert len({image.size for image in images}) > 10
    saturated = [np.asarray(image.convert("HSV"))[..., :2] for image in images]
    hues = [np.median(pixels[pixels[..., 1] > 180][:, 0]) for pixels in saturated]
    expected = [item.label * 64 for item in source.splits["train"]]
    distances = [min(abs(hue - want), 256 - abs(hue - want)) for hue, want in zip(hues, expected, strict=True)]
    assert max(distances) < 16


def test_synthetic_follows_seed_side_and_names() -> None:
    options = PackOptions(classes=("a", "b"), split={"train": "rest"})
    source = open_source("synthetic:2x2x32", options)
    assert source.classes == ("a", "b")
    contents = [item.read() for item in source.splits["train"]]
    assert len(set(contents)) == 4
    assert {Image.open(io.BytesIO(content)).size for content in contents} == {(32, 32)}
    assert contents == [item.read() for item in open_source("synthetic:2x2x32", options).splits["train"]]
    other = open_source("synthetic:2x2x32", PackOptions(seed=1, split={"train": "rest"}))
    assert contents[0] != other.splits["train"][0].read()
    with pytest.raises(ShardsError, match="2 classes, but 1 names are given"):
        open_source("synthetic:2x2", PackOptions(classes=("a",)))


@pytest.mark.parametrize(
    "name", ["digits", "imagefolder:/x", "synthetic:10x100", "synthetic:1x1x8", "torchvision:SVHN"]
)
def test_right_names_are_accepted(name: str) -> None:
    check_source_name(name)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("digit", "did you mean digits"),
        ("ImageFolder:x", "did you mean imagefolder"),
        ("zzz", "sources are digits, imagefolder, synthetic, torchvision"),
        ("digits:8", "takes no argument"),
        ("imagefolder", "needs a path"),
        ("synthetic:0x5", "must be synthetic:CLASSESxIMAGES"),
        ("synthetic:10", "must be synthetic:CLASSESxIMAGES"),
        ("torchvision:cifar10", "did you mean torchvision:CIFAR10"),
        ("torchvision:", "unknown source"),
    ],
)
def test_wrong_name_gets_a_hint(name: str, words: str) -> None:
    with pytest.raises(ShardsError, match=words):
        check_source_name(name)


def test_description_depends_on_every_option_that_changes_the_bytes() -> None:
    base = describe("digits", PackOptions())
    different = [
        PackOptions(classes=("1", "2")),
        PackOptions(split={"train": 0.5, "test": "rest"}),
        PackOptions(split={"train": 5, "test": "rest"}),
        PackOptions(seed=1),
        PackOptions(max_side=4),
        PackOptions(images_per_shard=7),
    ]
    assert len({base, *(describe("digits", options) for options in different)}) == 7
    assert describe("digits", PackOptions(root=Path("/x"), download=False)) == base
    swapped = describe("digits", PackOptions(split={"val": 0.1, "train": "rest"}))
    assert swapped == describe("digits", PackOptions(split={"train": "rest", "valid": 0.1}))
