"""A whole split decoded, against each image by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.images import ImageBatch
from launcher.data.decode import decode_image
from launcher.data.decoded import DecodedCache, estimate_pixels, lay_out, scan_headers
from launcher.data.ids import Ids
from launcher.data.loader import Loader
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


def new_cache(reader: ShardReader) -> DecodedCache:
    headers_N3 = scan_headers(reader, np.arange(NUM), None)
    return lay_out(headers_N3, torch.empty(int(headers_N3[:, :2].prod(axis=1).sum()), 3, dtype=torch.uint8))


def test_every_image_is_decoded_to_its_place(reader: ShardReader) -> None:
    decoded = new_cache(reader)
    for part in (np.arange(9, NUM), np.arange(9)):
        decoded.fill(reader, part, None, 2)
    images, labels_B = decoded.take(np.array([13, 4, -1, 4]))
    for number, i in enumerate((13, 4, 0, 4)):
        sample = reader.read(i)
        np.testing.assert_array_equal(images.image(number), decode_image(sample.content, "x"))
        assert labels_B[number] == sample.label
    assert images.pixels_PC.data_ptr() == decoded.images.pixels_PC.data_ptr()


def test_a_loader_gives_the_same_batches_with_and_without_a_cache(reader: ShardReader) -> None:
    work = [(0, np.array([3, 11, -1])), (1, np.array([7]))]
    decoded = new_cache(reader)
    decoded.fill(reader, np.arange(NUM), None, 1)
    for workers in (0, 2):
        found = []
        loader = Loader(reader, workers, torch.device("cpu"))
        for cache in (None, decoded):
            loader.use_decoded(cache)
            assert loader.is_decoded == (cache is not None)
            found.append(list(loader.batches(work, lambda images, _, view: images.canvas())))
        loader.close()
        for plain, cached in zip(*found, strict=True):
            assert torch.equal(plain.images_BChw, cached.images_BChw)
            assert torch.equal(plain.labels_B, cached.labels_B)
            assert torch.equal(plain.weights_B, cached.weights_B)
            assert (plain.ids_B == cached.ids_B).all()


@pytest.mark.parametrize("together", [1, 6, 100])
def test_small_cached_images_are_prepared_together(
    reader: ShardReader, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most INLINE_IMAGES per call, and only images of one view."""
    monkeypatch.setattr("launcher.data.loader.INLINE_IMAGES", together)
    monkeypatch.setattr("launcher.data.loader.INLINE_PIXELS", 1000 * 1000)
    decoded = new_cache(reader)
    decoded.fill(reader, np.arange(NUM), None, 1)
    calls: list[tuple[int, list[int]]] = []

    def corners(images: ImageBatch, ids_B: Ids, view: int) -> Tensor:
        calls.append((view, ids_B.tolist()))
        return torch.stack([images.image(row)[0, 0].clone() for row in range(len(ids_B))])

    work = [(view, np.array(ids)) for view, ids in ((0, [3, 11]), (0, [4, -1]), (0, [7, 1]), (0, [2, 9]), (1, [3, 6]))]
    loader = Loader(reader, 1, torch.device("cpu"))
    plain = list(loader.batches(work, corners))
    calls.clear()
    loader.use_decoded(decoded)
    found = list(loader.batches(work, corners))
    loader.close()
    assert (
        calls
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


def test_pixels_are_estimated_from_some_images(reader: ShardReader) -> None:
    exact = int(scan_headers(reader, np.arange(NUM), None)[:, :2].prod(axis=1).sum())
    assert estimate_pixels(reader, None) == exact
