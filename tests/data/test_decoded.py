"""A whole split decoded, against each image by itself, and its memory."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.images import Source
from launcher.data.decode import decode_image
from launcher.data.decoded import (
    create_shared,
    estimate_pixels,
    fill,
    free_bytes,
    lay_out,
    map_shared,
    scan_heads,
    shared_folder,
)
from launcher.data.loader import Loader
from launcher.data.order import Ids
from launcher.data.reader import ShardReader
from shards.manifest import read_manifest
from shards.sources import PackOptions
from shards.write import pack

NUM = 14


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder = tmp_path_factory.mktemp("decoded") / "shards"
    pack("synthetic:2x10", folder, PackOptions(images_per_shard=5))
    return ShardReader(folder, read_manifest(folder), "train")


def test_every_image_is_where_it_belongs(reader: ShardReader) -> None:
    facts_N3 = scan_heads(reader, np.arange(NUM), None)
    decoded = lay_out(facts_N3, torch.empty(int(facts_N3[:, :2].prod(axis=1).sum()), 3, dtype=torch.uint8))
    for part in (np.arange(9, NUM), np.arange(9)):
        fill(decoded, reader, part, None, 2)
    images, labels_B = decoded.take(np.array([13, 4, -1, 4]))
    for number, i in enumerate((13, 4, 0, 4)):
        sample = reader.read(i)
        np.testing.assert_array_equal(images.image(number), decode_image(sample.content, "x"))
        assert labels_B[number] == sample.label
    assert images.pixels_PC.data_ptr() == decoded.images.pixels_PC.data_ptr()


def test_a_loader_gives_the_same_with_and_without(reader: ShardReader) -> None:
    work = [(0, np.array([3, 11, -1])), (1, np.array([7]))]
    facts_N3 = scan_heads(reader, np.arange(NUM), None)
    decoded = lay_out(facts_N3, torch.empty(int(facts_N3[:, :2].prod(axis=1).sum()), 3, dtype=torch.uint8))
    fill(decoded, reader, np.arange(NUM), None, 1)
    for workers in (0, 2):
        found = []
        loader = Loader(reader, workers, torch.device("cpu"))
        for kept in (None, decoded):
            loader.use(kept)
            assert loader.is_decoded == (kept is not None)
            found.append(list(loader.batches(work, lambda images, _, view: images.canvas())))
        loader.close()
        for plain, cached in zip(*found, strict=True):
            assert torch.equal(plain.images_BChw, cached.images_BChw)
            assert torch.equal(plain.labels_B, cached.labels_B)
            assert torch.equal(plain.weights_B, cached.weights_B)
            assert (plain.ids_B == cached.ids_B).all()


@pytest.mark.parametrize("together", [1, 6, 100])
def test_small_images_are_prepared_together(
    reader: ShardReader, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many at a time as said, and none with those of another view."""
    monkeypatch.setattr("launcher.data.loader.INLINE_IMAGES", together)
    monkeypatch.setattr("launcher.data.loader.INLINE_PIXELS", 1000 * 1000)
    facts_N3 = scan_heads(reader, np.arange(NUM), None)
    decoded = lay_out(facts_N3, torch.empty(int(facts_N3[:, :2].prod(axis=1).sum()), 3, dtype=torch.uint8))
    fill(decoded, reader, np.arange(NUM), None, 1)
    asked: list[tuple[int, list[int]]] = []

    def corners(images: Source, ids_B: Ids, view: int) -> Tensor:
        asked.append((view, ids_B.tolist()))
        return torch.stack([images.image(row)[0, 0].clone() for row in range(len(ids_B))])

    work = [(view, np.array(ids)) for view, ids in ((0, [3, 11]), (0, [4, -1]), (0, [7, 1]), (0, [2, 9]), (1, [3, 6]))]
    loader = Loader(reader, 1, torch.device("cpu"))
    plain = list(loader.batches(work, corners))
    asked.clear()
    loader.use(decoded)
    found = list(loader.batches(work, corners))
    loader.close()
    assert (
        asked
        == {
            1: [(view, ids_B.tolist()) for view, ids_B in work],
            6: [(0, [3, 11, 4, -1, 7, 1]), (0, [2, 9]), (1, [3, 6])],
            100: [(0, [3, 11, 4, -1, 7, 1, 2, 9]), (1, [3, 6])],
        }[together]
    )
    for one, other in zip(plain, found, strict=True):
        assert (one.view, one.ids_B.tolist()) == (other.view, other.ids_B.tolist())
        for a, b in ((one.images_BChw, other.images_BChw), (one.labels_B, other.labels_B)):
            assert torch.equal(a, b)
        assert torch.equal(one.weights_B, other.weights_B)


def test_the_size_is_estimated_from_some(reader: ShardReader) -> None:
    exact = int(scan_heads(reader, np.arange(NUM), None)[:, :2].prod(axis=1).sum())
    assert estimate_pixels(reader, None) == exact


def test_shared_memory_is_the_owners_alone_and_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "block"
    create_shared(path, 5000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    one, two = map_shared(path, 5000), map_shared(path, 5000)
    path.unlink()
    one[4999] = 7
    assert two.tolist() == [0] * 4999 + [7]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_there_already_is_not_taken(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "block", tmp_path / "other"
    other.write_text("mine")
    path.symlink_to(other) if kind == "link" else path.write_text("mine")
    with pytest.raises(FileExistsError):
        create_shared(path, 10)
    assert path.read_text() == "mine"


def test_no_room_is_an_error_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left|File too large"):
        create_shared(tmp_path / "block", 2**62)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [None, 9])
def test_a_file_that_is_not_the_one_made_is_not_mapped(tmp_path: Path, size: int | None) -> None:
    if size is not None:
        (tmp_path / "block").write_bytes(bytes(size))
    with pytest.raises(FileNotFoundError):
        map_shared(tmp_path / "block", 10)
    assert (tmp_path / "block").exists() == (size is not None)


def test_free_memory_is_less_than_there_is() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_bytes(is_shared=True) <= free_bytes(is_shared=False) < whole
    assert shared_folder().is_dir()
