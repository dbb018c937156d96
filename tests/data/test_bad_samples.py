"""Images that cannot be read: they end the run, or are left out without changing what counts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.images import Source
from launcher.data.bad_samples import DeferBadSample, FailOnBadSample, SkipBadSamples
from launcher.data.loader import Batch, Loader
from launcher.data.order import Ids
from launcher.data.reader import Sample, ShardReader
from launcher.errors import DataError
from shards.manifest import read_manifest
from shards.sources import PackOptions
from shards.write import pack

CPU = torch.device("cpu")


class Damaged(ShardReader):
    """Of some images the file ends early, of others it is no image, others cannot be read."""

    def __init__(self, folder: Path, cut: Iterable[int], foreign: Iterable[int], unreadable: Iterable[int]) -> None:
        super().__init__(folder, read_manifest(folder), "train")
        self.cut, self.foreign, self.unreadable = set(cut), set(foreign), set(unreadable)

    def read(self, sample_id: int) -> Sample:
        sample = super().read(sample_id)
        if sample_id in self.unreadable:
            raise DataError(f"{sample.workdir}: the tar is cut off")
        content = b"<html>" if sample_id in self.foreign else sample.content
        return Sample(content[:-40] if sample_id in self.cut else content, sample.label, sample.place)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "shards"
    pack("synthetic:2x10", folder, PackOptions())
    return folder


def corners(images: Source, ids_B: Ids, view: int) -> Tensor:
    return torch.stack([images.image(row)[0, 0].clone() for row in range(len(ids_B))])


def load(reader: ShardReader, ids: list[int], bad_samples: FailOnBadSample) -> Batch:
    loader = Loader(reader, 2, CPU, bad_samples=bad_samples)
    [batch] = loader.batches([(0, np.array(ids))], corners)
    loader.close()
    return batch


@pytest.mark.parametrize("kind", range(3))
def test_the_run_fails_unless_told_otherwise(folder: Path, kind: int) -> None:
    reader = Damaged(folder, *([4] if kind == number else [] for number in range(3)))
    with pytest.raises(DataError, match="image 4"):
        load(reader, [3, 4], FailOnBadSample())


@pytest.mark.parametrize("kind", range(3))
def test_another_image_stands_in_with_no_weight(folder: Path, kind: int) -> None:
    reader = Damaged(folder, *([4] if kind == number else [] for number in range(3)))
    bad_samples = SkipBadSamples(5)
    batch, whole = (
        load(reader, [4, 3, 9, -1], bad_samples),
        load(Damaged(folder, [], [], []), [3, 3, 9, -1], FailOnBadSample()),
    )
    assert batch.ids_B.tolist() == [4, 3, 9, -1]
    assert batch.weights_B.tolist() == [0, 1, 1, 0]
    assert torch.equal(batch.images_BChw, whole.images_BChw)
    assert torch.equal(batch.labels_B, whole.labels_B)
    assert "image 4" in bad_samples.take_new()[4]
    assert bad_samples.take_new() == {}
    assert load(reader, [4, 3], bad_samples).weights_B.tolist() == [0, 1]
    assert bad_samples.take_new() == {}


def test_a_batch_of_nothing_else_has_no_weight_at_all(folder: Path) -> None:
    batch = load(Damaged(folder, [1], [2], [3]), [1, 2, 3], SkipBadSamples(5))
    assert batch.weights_B.tolist() == [0, 0, 0]
    assert not batch.images_BChw.any()


def test_too_many_end_the_run_all_the_same(folder: Path) -> None:
    with pytest.raises(DataError, match=r"3 images cannot be read, data\.max_left_out allows 2: .*image 1.*image 2"):
        load(Damaged(folder, [], [1, 2, 3], []), [1, 2, 3], SkipBadSamples(2))


def test_what_ends_the_work_is_held_back() -> None:
    bad_samples, limited = DeferBadSample(FailOnBadSample()), DeferBadSample(SkipBadSamples(1))
    for number in (3, 5):
        for each in (bad_samples, limited):
            each.note(number, DataError(f"image {number}"))
    assert str(bad_samples.error) == "image 3"
    assert not bad_samples.among(np.array([3, 5])).any()
    assert str(limited.error) == "2 images cannot be read, data.max_left_out allows 1: image 3; image 5"
    assert limited.among(np.array([3, 4, 5])).tolist() == [True, False, True]
    assert limited.take_new() == {3: "image 3", 5: "image 5"}
