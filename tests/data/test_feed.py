"""Feeds of images and of features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import fx, nn

from launcher.augment.execute import build_augment
from launcher.augment.mix import Mix
from launcher.augment.parameter_hash import ParameterHashes
from launcher.data.features.format import Layout, Value, commit_features, open_features, write_part
from launcher.data.feed import Examples, FeatureFeed, ImageFeed
from launcher.data.loader import Loader
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import Strategy
from launcher.models.frozen.engine import Engine
from shards.manifest import read_manifest
from tests.data.made import SIDE, recipe_of
from tests.harness.small_run import alone

SEED = 3
CPU = torch.device("cpu")
RANDOM = recipe_of(augment={"train": [{"op": "random_crop", "size": SIDE, "padding": 4}, {"op": "horizontal_flip"}],
                            "eval": [{"op": "center_crop", "size": SIDE}]}).augment.train  # fmt: skip
IDS = [np.array([5, 0, 41, 7]), np.array([2, -1, -1, -1])]


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return alone()


@pytest.fixture
def loader(few_shards: Path) -> Iterator[Loader]:
    loader = Loader(ShardReader(few_shards, read_manifest(few_shards), "train"), 2, CPU)
    yield loader
    loader.close()


def feed_of(loader: Loader, strategy: Strategy, views: int | None, engine: Engine | None = None) -> ImageFeed:
    return ImageFeed(loader, build_augment(RANDOM, (0.5,) * 3, (0.2,) * 3), strategy, SEED, views, engine)


def images(feed: ImageFeed, epoch: int) -> torch.Tensor:
    return torch.cat([examples.inputs[0] for examples in feed.batches((epoch, ids_B) for ids_B in IDS)])


def test_images_are_augmented_for_their_epoch(loader: Loader, strategy: Strategy) -> None:
    feed = feed_of(loader, strategy, None)
    work = [(epoch, ids_B) for epoch in (0, 1) for ids_B in IDS]
    found = list(feed.batches(iter(work)))
    batches = list(loader.batches(work, lambda images, ids_B, epoch: feed.augment(images, ids_B, SEED, epoch)))
    for (_, ids_B), examples, batch in zip(work, found, batches, strict=True):
        assert examples.images_BCHW is examples.inputs[0]
        assert torch.equal(examples.inputs[0], batch.images_BChw)
        assert examples.labels_B.tolist() == batch.labels_B.tolist()
        assert examples.weights_B.tolist() == (ids_B >= 0).tolist()
    assert feed.times.wait_s == loader.times.wait_s > 0


@pytest.mark.parametrize("views", [1, 2, 3])
def test_epochs_use_the_views_in_turn(loader: Loader, strategy: Strategy, views: int) -> None:
    endless = feed_of(loader, strategy, None)
    feed = feed_of(loader, strategy, views)
    for epoch in range(4):
        assert torch.equal(images(feed, epoch), images(endless, epoch % views))
    assert not torch.equal(images(endless, 0), images(endless, 1))


def test_images_are_mixed_after_augmentation(loader: Loader, strategy: Strategy) -> None:
    plain = feed_of(loader, strategy, None)
    mix = Mix((("mixup", 1.0),), 1.0, 3)
    work = [(1, np.array([5, 0, 41, 7]))]
    [before], [after] = list(plain.batches(work)), list(replace(plain, mix=mix).batches(work))
    assert before.images_BCHW is not None
    images_BCHW, targets_BK = mix(before.images_BCHW, before.labels_B, before.ids_B, SEED, 1)
    assert torch.equal(after.inputs[0], images_BCHW)
    assert torch.equal(after.targets, targets_BK)
    assert torch.equal(after.labels_B, before.labels_B)
    assert torch.equal(before.targets, before.labels_B)


def test_param_hashes_do_not_depend_on_the_batch(loader: Loader, strategy: Strategy) -> None:
    feed = replace(
        feed_of(loader, strategy, None), parameter_hashes=ParameterHashes, mix=Mix((("mixup", 1.0),), 1.0, 3)
    )
    ids_B = np.array([5, 0, 41, 7])
    [whole] = feed.batches([(1, ids_B)])
    parts = list(feed.batches([(1, ids_B[:2]), (1, ids_B[2:]), (2, ids_B)]))
    assert np.array_equal(np.concatenate([part.param_hashes_BD for part in parts[:2]]), whole.param_hashes_BD)
    assert (parts[2].param_hashes_BD != whole.param_hashes_BD).any(axis=1).all()
    [unmixed] = replace(feed, mix=None).batches([(1, ids_B)])
    assert (unmixed.param_hashes_BD != whole.param_hashes_BD).any(axis=1).all()
    [unhashed] = feed_of(loader, strategy, None).batches([(1, ids_B)])
    assert unhashed.param_hashes_BD.size == 0


def test_an_engine_gives_the_values_at_the_boundary(loader: Loader, strategy: Strategy) -> None:
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    graph = fx.Graph()
    images_BCHW = graph.placeholder("images_BCHW")
    for name in "01":
        images_BCHW = graph.call_module(name, (images_BCHW,))
    graph.output((images_BCHW,))
    feed = feed_of(loader, strategy, 1, Engine(fx.GraphModule(layers, graph), strategy.autocast, None))
    for examples in feed.batches((0, ids_B) for ids_B in IDS):
        assert examples.images_BCHW is not None
        assert torch.allclose(examples.inputs[0], layers(examples.images_BCHW), atol=1e-5)
        assert not examples.inputs[0].requires_grad


def features_feed(folder: Path, dtype: torch.dtype, views: tuple[int, ...], num_views: int) -> FeatureFeed:
    """Value j of image i in view v is 100 v + 10 i + j; its label is i % 3."""
    name = str(dtype).removeprefix("torch.")
    layout = Layout((Value(name, (2, 3)), Value("float32", ())), 6, 1)  # type: ignore[arg-type]
    opened = {}
    for view in views:
        values = 100 * view + 10 * torch.arange(6)[:, None] + torch.arange(6)
        parts = [values.to(dtype), torch.full((6, 1), float(view)), torch.arange(6)[:, None] % 3]
        records = np.concatenate([part.view(torch.uint8).numpy() for part in parts], axis=1)
        (folder / f".{view}").mkdir()
        write_part(folder / f".{view}", 0, [records])
        commit_features(folder / f".{view}", folder, str(view), {}, layout)
        features = open_features(folder, str(view))
        assert features is not None
        opened[view] = features
    return FeatureFeed(opened, num_views, CPU)


def read(feed: FeatureFeed, epoch: int, ids_B: list[int]) -> Examples:
    [examples] = feed.batches([(epoch, np.array(ids_B))])
    return examples


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_are_read_as_tensors(tmp_path: Path, dtype: torch.dtype) -> None:
    feed = features_feed(tmp_path, dtype, (0,), 1)
    examples = read(feed, 7, [4, 1, -1])
    assert [(value.dtype, tuple(value.shape)) for value in examples.inputs] == [
        (dtype, (3, 2, 3)),
        (torch.float32, (3,)),
    ]
    assert examples.inputs[0][:2].flatten(1).tolist() == [[40, 41, 42, 43, 44, 45], [10, 11, 12, 13, 14, 15]]
    assert (examples.labels_B[:2].tolist(), examples.weights_B.tolist()) == ([1, 1], [1, 1, 0])
    assert (examples.ids_B.tolist(), examples.images_BCHW) == ([4, 1, -1], None)
    assert feed.times.wait_s > 0


def test_an_epoch_reads_its_view(tmp_path: Path) -> None:
    feed = features_feed(tmp_path, torch.float32, (1, 2), 3)
    assert [float(read(feed, epoch, [0]).inputs[1]) for epoch in (1, 2, 4, 8)] == [1, 2, 1, 2]


def test_features_that_were_read_may_be_written_to(tmp_path: Path) -> None:
    """In-place layers must not reach the file."""
    feed = features_feed(tmp_path, torch.float32, (0,), 1)
    read(feed, 0, [0]).inputs[0].fill_(-1)
    assert read(feed, 0, [0]).inputs[0].min() == 0
