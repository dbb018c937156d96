"""An encoded batch, decoded in parts, against each file decoded by itself."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from launcher.data.bad_samples import FailOnBadSample
from launcher.data.decode import decode_image
from launcher.data.encoded import InputTimes, read_batch
from launcher.data.reader import Sample, ShardReader
from launcher.errors import DataError
from shards.manifest import read_manifest
from shards.sources import PackOptions
from shards.write import pack
from tests.data.readers import ChangedReader


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    folder = tmp_path_factory.mktemp("encoded") / "shards"
    pack("synthetic:2x10", folder, PackOptions())
    return ShardReader(folder, read_manifest(folder), "train")


@pytest.mark.parametrize("numbers", [slice(None), slice(0, 1), slice(2, 4), slice(3, 9)])
def test_any_part_equals_its_files_decoded_one_by_one(reader: ShardReader, numbers: slice) -> None:
    ids_B, times = np.array([3, 0, 11, 7, -1]), InputTimes()
    batch, labels_B = read_batch(reader, ids_B, None, times, FailOnBadSample())
    expected = [decode_image(reader.read(max(i, 0)).content, "x") for i in ids_B.tolist()]
    assert len({image.shape for image in expected}) > 1
    assert batch.sizes_B2.tolist() == [list(image.shape[:2]) for image in expected]
    assert labels_B.tolist() == [reader.read(max(i, 0)).label for i in ids_B.tolist()]
    part = batch.part(numbers)
    block = part.decode()
    assert part.sizes_B2.tolist() == block.sizes_B2.tolist() == batch.sizes_B2[numbers].tolist()
    assert block.pixels_PC.shape == (part.sizes_B2.prod(axis=1).sum(), 3)
    assert torch.equal(part.canvas(), block.canvas())
    for number, image_HWC in enumerate(expected[numbers]):
        np.testing.assert_array_equal(part.image(number), image_HWC)
        np.testing.assert_array_equal(block.image(number), image_HWC)
    assert times.read_s > 0
    assert times.decode_s > 0
    assert times.augment_s == times.wait_s == times.copy_s == 0
    assert (times.num_images, times.long_sides) == (5, batch.sizes_B2.max(axis=1).sum())


def test_times_add_up() -> None:
    times = InputTimes(1, 2, 3, 4, 5, 6, 7)
    before = replace(times)
    times.add(InputTimes(10, 20, 30, 40, 50, 60, 70))
    assert times == InputTimes(11, 22, 33, 44, 55, 66, 77)
    assert times.since(before) == InputTimes(10, 20, 30, 40, 50, 60, 70)


def test_a_damaged_file_raises_data_error_with_its_place(reader: ShardReader) -> None:
    truncated = ChangedReader(reader, lambda _, sample: Sample(sample.content[:-40], sample.label, sample.place))
    batch, _ = read_batch(truncated, np.array([5]), None, InputTimes(), FailOnBadSample())
    with pytest.raises(DataError, match=r"image 5: cannot be decoded"):
        batch.image(0)
