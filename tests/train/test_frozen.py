"""The frozen part of a real network made ready."""

from __future__ import annotations

from typing import cast

import pytest
import torch

from launcher.distributed.comm import Comm
from launcher.models.frozen.split import FrozenSplit, SplitError
from launcher.train.frozen import (
    build_engine,
    build_request,
    feature_values,
    split_network,
    split_on_all,
    with_engine,
)
from tests.distributed.threads import run_ranks
from tests.harness.workdir import FLIPS, LENET, WorkDir


def test_split_parts_give_the_same_outputs(workdir: WorkDir) -> None:
    parts = workdir.build()
    split = split_network(parts.job, parts.state)
    engine = build_engine(parts.job, split)
    images_BCHW = torch.randn(2, 3, 32, 32)
    model = parts.state.model.eval()
    with torch.no_grad():
        torch.testing.assert_close(split.trainable(*engine(images_BCHW)), model(images_BCHW), rtol=1e-4, atol=1e-5)


def test_a_network_without_a_frozen_beginning_cannot_be_split(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    for name, parameter in parts.state.model.named_parameters():
        parameter.requires_grad_(name.startswith("conv1"))
    with pytest.raises(SplitError):
        split_network(parts.job, parts.state)


def split_where(ranks: set[int], split: FrozenSplit) -> list[object]:
    """The outcome on each of three ranks, of which only `ranks` can split the network."""

    def work(comm: Comm) -> FrozenSplit:
        def own() -> FrozenSplit:
            if comm.world.rank in ranks:
                return split
            raise SplitError(f"seen by {comm.world.rank}")

        return split_on_all(comm, own)

    return [str(each) if isinstance(each, SplitError) else each for each in run_ranks(work)]


def test_all_ranks_take_the_split_or_none(workdir: WorkDir) -> None:
    """One that found its parts too different would leave the others waiting for its features."""
    parts = workdir.build(LENET)
    split = split_network(parts.job, parts.state)
    assert split_where({0, 1, 2}, split) == [split] * 3
    assert split_where({0, 2}, split) == ["rank 1: seen by 1"] * 3
    assert split_where({1}, split) == ["seen by 0"] * 3


def test_a_split_that_another_rank_cannot_make_is_not_taken(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    workdir.patch.setattr(
        "launcher.train.frozen.split_on_all", lambda comm, split: split_on_all(cast(Comm, SecondFails()), split)
    )
    parts.enter(0)
    assert workdir.said() == ["frozen part: runs as part of the whole network: rank 1: its two parts do not run"]


class SecondFails:
    """A Comm whose second rank cannot split the network."""

    def all_gather_object(self, value: str | None) -> list[str | None]:
        return [value, "its two parts do not run"]


def test_feeds_go_through_the_engine(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    engine = build_engine(parts.job, split_network(parts.job, parts.state))
    feeds = with_engine(parts.inputs, engine)
    assert {feed.engine for feed in feeds.values()} == {engine}
    assert {feed.engine for feed in parts.inputs.image_feeds.values()} == {None}


def test_a_request_names_all_that_features_depend_on(workdir: WorkDir) -> None:
    parts = workdir.build(LENET, FLIPS, "augment.views=2")
    job, feeds = parts.job, parts.inputs.image_feeds
    values = feature_values(job, build_engine(job, split_network(job, parts.state)))
    assert values["train"] == values["valid"] == values["test"]
    train = build_request(job, "train", feeds["train"], values["train"], views=(0, 1))
    valid = build_request(job, "valid", feeds["valid"], values["valid"])
    assert (train.is_random, train.num_views, train.num_images) == (True, 2, 42)
    assert (valid.is_random, valid.num_views, valid.num_images, valid.views) == (False, 1, 9, (0,))
    assert [op["op"] for op in train.transform["ops"]] == ["random_crop", "horizontal_flip"]
    assert train.transform["mean"] == valid.transform["mean"] == [0.5] * 3
