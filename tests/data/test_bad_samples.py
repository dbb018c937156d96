"""Images that cannot be read end the run, or are skipped without changing the rest of the batch."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.images import ImageBatch
from launcher.data.bad_samples import BadSamples, DeferBadSample, FailOnBadSample, SkipBadSamples
from launcher.data.ids import Ids
from launcher.data.loader import Batch, Loader
from launcher.data.reader import Sample, SampleReader, ShardReader
from launcher.errors import DataError
from shards.manifest import read_manifest
from shards.sources import PackOptions
from shards.write import pack
from tests.data.readers import ChangedReader

CPU = torch.device("cpu")


def damaged_reader(
    folder: Path, truncated: Collection[int], foreign: Collection[int], unreadable: Collection[int]
) -> SampleReader:
    """Some files are truncated, some are not images, and some cannot be read."""

    def damage(sample_id: int, sample: Sample) -> Sample:
        if sample_id in unreadable:
            raise DataError(f"{sample.place}: the tar is truncated")
        content = b"<html>" if sample_id in foreign else sample.content
        return Sample(content[:-40] if sample_id in truncated else content, sample.label, sample.place)

    return ChangedReader(ShardReader(folder, read_manifest(folder), "train"), damage)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "shards"
    pack("synthetic:2x10", folder, PackOptions())
    return folder


def corners(images: ImageBatch, ids_B: Ids, view: int) -> Tensor:
    return torch.stack([images.image(row)[0, 0].clone() for row in range(len(ids_B))])


def load(reader: SampleReader, ids: list[int], bad_samples: BadSamples) -> Batch:
    loader = Loader(reader, 2, CPU, bad_samples=bad_samples)
    [batch] = loader.batches([(0, np.array(ids))], corners)
    loader.close()
    return batch


@pytest.mark.parametrize("kind", range(3))
def test_an_unreadable_image_fails_the_run_by_default(folder: Path, kind: int) -> None:
    reader = damaged_reader(folder, *([4] if kind == number else [] for number in range(3)))
    with pytest.raises(DataError, match="image 4"):
        load(reader, [3, 4], FailOnBadSample())


@pytest.mark.parametrize("kind", range(3))
def test_a_skipped_image_is_replaced_by_another_with_weight_0(folder: Path, kind: int) -> None:
    reader = damaged_reader(folder, *([4] if kind == number else [] for number in range(3)))
    bad_samples = SkipBadSamples(5)
    batch, whole = (
        load(reader, [4, 3, 9, -1], bad_samples),
        load(damaged_reader(folder, [], [], []), [3, 3, 9, -1], FailOnBadSample()),
    )
    assert batch.ids_B.tolist() == [4, 3, 9, -1]
    assert batch.weights_B.tolist() == [0, 1, 1, 0]
    assert torch.equal(batch.images_BChw, whole.images_BChw)
    assert torch.equal(batch.labels_B, whole.labels_B)
    assert "image 4" in bad_samples.take_new()[4]
    assert bad_samples.take_new() == {}
    assert load(reader, [4, 3], bad_samples).weights_B.tolist() == [0, 1]
    assert bad_samples.take_new() == {}


def test_a_batch_of_skipped_images_only_has_weight_0(folder: Path) -> None:
    batch = load(damaged_reader(folder, [1], [2], [3]), [1, 2, 3], SkipBadSamples(5))
    assert batch.weights_B.tolist() == [0, 0, 0]
    assert not batch.images_BChw.any()


def test_more_skipped_images_than_allowed_fail_the_run(folder: Path) -> None:
    with pytest.raises(DataError, match=r"3 images cannot be read, data\.max_skipped allows 2: .*image 1.*image 2"):
        load(damaged_reader(folder, [], [1, 2, 3], []), [1, 2, 3], SkipBadSamples(2))


def test_defer_keeps_the_first_error() -> None:
    bad_samples, limited = DeferBadSample(FailOnBadSample()), DeferBadSample(SkipBadSamples(1))
    for number in (3, 5):
        for each in (bad_samples, limited):
            each.note(number, DataError(f"image {number}"))
    assert str(bad_samples.error) == "image 3"
    assert not bad_samples.among(np.array([3, 5])).any()
    assert str(limited.error) == "2 images cannot be read, data.max_skipped allows 1: image 3; image 5"
    assert limited.among(np.array([3, 4, 5])).tolist() == [True, False, True]
    assert limited.take_new() == {3: "image 3", 5: "image 5"}
