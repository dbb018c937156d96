from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.images import ImageBatch
from launcher.data.decode import decode_image
from launcher.data.ids import Ids
from launcher.data.loader import Loader
from launcher.data.reader import Sample, ShardReader
from launcher.data.threads import READ_AHEAD
from launcher.errors import DataError
from shards.manifest import read_manifest
from shards.sources import PackOptions
from shards.write import pack
from tests.data.readers import ChangedReader

CPU = torch.device("cpu")
NUM_IMAGES = 14


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> ShardReader:
    """14 photographs of different sizes, two classes."""
    folder = tmp_path_factory.mktemp("loader") / "shards"
    pack("synthetic:2x10", folder, PackOptions(images_per_shard=5))
    return ShardReader(folder, read_manifest(folder), "train")


@pytest.fixture(params=[0, 1, 4])
def workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class Slow:
    """A change for ChangedReader: waits at each read, fails at one id, and counts."""

    def __init__(self, wait_s: float = 0.0, broken: int = -1) -> None:
        self.wait_s, self.broken = wait_s, broken
        self.reads = 0

    def __call__(self, sample_id: int, sample: Sample) -> Sample:
        self.reads += 1
        time.sleep(self.wait_s)
        if sample_id == self.broken:
            raise DataError(f"image {sample_id} is broken")
        return sample


def work_of(*batches: list[int]) -> list[tuple[int, Ids]]:
    return [(number, np.array(batch, dtype=np.int64)) for number, batch in enumerate(batches)]


def corners(images: ImageBatch, ids_B: Ids, view: int) -> Tensor:
    """The first pixel of each image, and its view."""
    return torch.stack([torch.cat([images.image(i)[0, 0], torch.tensor([view])]) for i in range(len(ids_B))])


def loading_threads() -> int:
    return sum(thread.name.startswith("load") for thread in threading.enumerate())


def test_images_are_decoded_and_prepared_for_their_view(reader: ShardReader, workers: int) -> None:
    work = work_of([3, 0, 11, 7], [2], [-1, 5])
    loader = Loader(reader, workers, CPU)
    batches = list(loader.batches(iter(work), corners))
    loader.close()
    for (view, ids_B), batch in zip(work, batches, strict=True):
        images = [decode_image(reader.read(max(i, 0)).content, "x") for i in ids_B.tolist()]
        assert batch.images_BChw.tolist() == [[*image[0, 0].tolist(), view] for image in images]


def test_images_are_prepared_by_the_loading_threads_in_which_torch_starts_none(reader: ShardReader) -> None:
    seen: list[tuple[str, int]] = []

    def prepare(images: ImageBatch, ids_B: Ids, view: int) -> Tensor:
        seen.append((threading.current_thread().name, torch.get_num_threads()))
        return torch.zeros(len(ids_B))

    num_threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for workers in (0, 2):
            loader = Loader(reader, workers, CPU)
            list(loader.batches(work_of(*([i % 14] for i in range(20))), prepare))
            loader.close()
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(num_threads)
    assert {threads for name, threads in seen if not name.startswith("load")} == {3}
    assert {threads for name, threads in seen if name.startswith("load")} == {1}
    assert len(seen) == 40


def test_labels_ids_and_weights_are_those_of_the_images(reader: ShardReader) -> None:
    (batch,) = Loader(reader, 0, CPU).batches(work_of([5, 13, -1]), corners)
    assert batch.labels_B.tolist()[:2] == [reader.read(5).label, reader.read(13).label]
    assert batch.labels_B.dtype == batch.weights_B.dtype == torch.int64
    assert batch.weights_B.tolist() == [1, 1, 0]
    assert batch.ids_B.tolist() == [5, 13, -1]


def test_batches_keep_their_order_with_any_number_of_workers(reader: ShardReader, workers: int) -> None:
    wanted = np.random.default_rng(0).integers(0, NUM_IMAGES, (25, 2))
    loader = Loader(reader, workers, CPU)
    labels = [reader.read(i).label for i in wanted.ravel().tolist()]
    batches = list(loader.batches(((0, ids) for ids in wanted), corners))
    loader.close()
    assert [batch.ids_B.tolist() for batch in batches] == wanted.tolist()
    assert [label for batch in batches for label in batch.labels_B.tolist()] == labels


def test_an_error_is_raised_at_its_place_and_close_returns(reader: ShardReader, workers: int) -> None:
    loader = Loader(ChangedReader(reader, Slow(broken=4)), workers, CPU)
    found: list[int] = []
    batches = loader.batches(work_of(*([i] for i in range(10))), corners)
    with pytest.raises(DataError, match="image 4 is broken"):  # noqa: PT012 - the batches before it must come
        for batch in batches:
            found.append(int(batch.ids_B[0]))
    loader.close()
    assert found == [0, 1, 2, 3]
    assert loading_threads() == 0


def test_a_loader_closed_early_stops_reading(reader: ShardReader, workers: int) -> None:
    slow = Slow(wait_s=0.002)
    loader = Loader(ChangedReader(reader, slow), workers, CPU)
    batches = loader.batches(work_of(*([0] for _ in range(1000))), corners)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    loader.close()
    assert slow.reads <= 2 * (workers + READ_AHEAD)
    assert loading_threads() == 0


def test_a_loader_can_be_used_for_several_epochs(reader: ShardReader, workers: int) -> None:
    loader = Loader(reader, workers, CPU)
    for _ in range(2):
        assert len(list(loader.batches(work_of([0], [1]), corners))) == 2
    assert list(loader.batches([], corners)) == []
    loader.close()


def test_work_is_taken_no_further_ahead_than_needed(reader: ShardReader) -> None:
    taken = 0

    def work() -> Iterator[tuple[int, Ids]]:
        nonlocal taken
        while True:
            taken += 1
            yield 0, np.array([0])

    loader = Loader(reader, 2, CPU)
    batches = loader.batches(work(), corners)
    next(batches)
    assert taken == 2 + READ_AHEAD
    loader.close()


def test_waiting_is_measured(reader: ShardReader, workers: int) -> None:
    waits = []
    for wait_s in (0.0, 0.2):
        loader = Loader(ChangedReader(reader, Slow(wait_s)), workers, CPU)
        list(loader.batches(work_of([0], [1], [2], [3]), corners))
        loader.close()
        waits.append(loader.times.wait_s)
    assert waits[1] > waits[0]
    assert waits[1] >= 0.16


def test_time_spent_training_is_not_waiting(reader: ShardReader) -> None:
    loader = Loader(reader, 1, CPU)
    for _ in loader.batches(work_of([0], [1], [2]), corners):
        time.sleep(0.5)
    loader.close()
    assert loader.times.wait_s < 1.0, "of 1.5 s"
