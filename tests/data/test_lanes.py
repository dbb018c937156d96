"""Epochs in lanes: every image once, the same batches on any number of ranks, few shards a node."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.data.ids import Ids
from launcher.data.order import Order
from launcher.recipe.plan import Plan
from tests.data.made import order_of, plan_of
from tests.recipe.right import QUICK


@dataclass(frozen=True)
class Case:
    """A training in lanes. `sizes`: images of each shard."""

    sizes: tuple[int, ...]
    lanes: int
    share: int
    shuffle_images: int
    last_batch: str
    seed: int

    @property
    def num_train(self) -> int:
        return sum(self.sizes)

    def plan(self, world_size: int = 1, micro_batch: int | None = None) -> Plan:
        data = {"lanes": self.lanes, "shuffle_images": self.shuffle_images, "last_batch": self.last_batch}
        train = {"epochs": 3, "global_batch": self.lanes * self.share, "micro_batch": micro_batch}
        return plan_of(self.num_train, world_size, data={"source": "digits", **data}, train=train)

    def order(self, world_size: int = 1, micro_batch: int | None = None) -> Order:
        return order_of(self.plan(world_size, micro_batch), self.sizes, self.seed)


@st.composite
def cases(draw: st.DrawFn, most_lanes: int = 12, last_batch: str | None = None) -> Case:
    """Shards of sizes that nothing divides, some of them empty."""
    sizes = draw(st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda sizes: sum(sizes) > 0))
    last_batch = last_batch or draw(st.sampled_from(["drop", "wrap"]))
    lanes, share = draw(st.integers(1, most_lanes)), draw(st.integers(1, 4))
    if last_batch == "drop":
        lanes = min(lanes, sum(sizes))
        share = min(share, sum(sizes) // lanes)
    return Case(tuple(sizes), lanes, share, draw(st.integers(lanes, 40 * lanes)), last_batch, draw(st.integers(0, 99)))


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def epoch_batches(order: Order, epoch: int) -> list[list[int]]:
    first, num = epoch * order.plan.steps_per_epoch + 1, order.plan.steps_per_epoch
    return [order.global_batch_ids(step).tolist() for step in range(first, first + num)]


def shard_numbers(case: Case, ids: Ids) -> Ids:
    """The shard of each image, by counting."""
    return np.repeat(np.arange(len(case.sizes)), case.sizes)[ids]


@QUICK
@given(case=cases(), epoch=st.integers(0, 2))
def test_an_epoch_has_every_image_once_except_dropped_and_wrapped_ones(case: Case, epoch: int) -> None:
    order = case.order()
    ids = [i for batch in epoch_batches(order, epoch) for i in batch]
    assert len(ids) == order.plan.steps_per_epoch * order.plan.global_batch
    assert set(ids) <= set(range(case.num_train))
    if case.last_batch == "drop":
        assert len(set(ids)) == len(ids) == case.num_train - order.plan.dropped_per_epoch
    else:
        assert set(ids) == set(range(case.num_train))
        assert len(ids) - case.num_train == order.plan.wrapped_per_epoch
        most = -(-len(ids) // case.num_train)
        assert max(np.bincount(ids)) <= most
    dropped_ids = sorted(set(range(case.num_train)) - set(ids))
    assert sorted(order.epochs.dropped_ids(epoch).tolist()) == dropped_ids
    assert order.visits(epoch).tolist()[: len(ids)] == ids


@QUICK
@given(case=cases(most_lanes=24), data=st.data())
def test_batches_are_the_same_on_any_number_of_ranks(case: Case, data: st.DataObject) -> None:
    expected = case.order()
    for world_size in divisors(case.lanes):
        micro_batch = data.draw(st.sampled_from(divisors(case.lanes * case.share // world_size)))
        order = case.order(world_size, micro_batch)
        assert order.plan.total_steps == expected.plan.total_steps
        for step in {1, order.plan.total_steps, data.draw(st.integers(1, order.plan.total_steps))}:
            ranks = [order.micro_batch_ids(step, rank) for rank in range(world_size)]
            assert {ids.shape for ids in ranks} == {(order.plan.accumulation, order.plan.micro_batch)}
            assert np.concatenate(ranks).reshape(-1).tolist() == expected.global_batch_ids(step).tolist()


@QUICK
@given(
    world_size=st.integers(1, 4096),
    lanes_each=st.integers(1, 3),
    share=st.integers(1, 3),
    num_shards=st.integers(1, 40),
    shard_size=st.integers(900, 1100),
    data=st.data(),
)
def test_batches_are_the_same_on_up_to_4096_ranks(
    world_size: int, lanes_each: int, share: int, num_shards: int, shard_size: int, data: st.DataObject
) -> None:
    lanes = world_size * lanes_each
    sizes = tuple(shard_size + 7 * i % 50 for i in range(num_shards))
    case = Case(sizes, lanes, share, 8 * lanes, "wrap", seed=5)
    order, alone = case.order(world_size), case.order()
    assert order.plan.total_steps == alone.plan.total_steps
    step = data.draw(st.integers(1, order.plan.total_steps))
    whole = alone.global_batch_ids(step).reshape(world_size, -1)
    for rank in {0, world_size - 1, *data.draw(st.lists(st.integers(0, world_size - 1), max_size=8))}:
        assert order.micro_batch_ids(step, rank).reshape(-1).tolist() == whole[rank].tolist()


@QUICK
@given(case=cases(), data=st.data())
def test_any_step_is_found_without_the_steps_before_it(case: Case, data: st.DataObject) -> None:
    """From a new order, and in any sequence."""
    in_sequence = case.order()
    expected = [in_sequence.global_batch_ids(step).tolist() for step in range(1, in_sequence.plan.total_steps + 1)]
    for step in data.draw(st.lists(st.integers(1, len(expected)), min_size=4, max_size=8)):
        assert case.order().global_batch_ids(step).tolist() == expected[step - 1]
        assert in_sequence.global_batch_ids(step).tolist() == expected[step - 1]


def node_ids(order: Order, epoch: int, node: int, num_nodes: int) -> Ids:
    """All ids that one of `num_nodes` nodes reads in an epoch."""
    first, num = epoch * order.plan.steps_per_epoch + 1, order.plan.steps_per_epoch
    each = order.plan.global_batch // num_nodes
    batches = [order.global_batch_ids(step)[node * each : (node + 1) * each] for step in range(first, first + num)]
    return np.concatenate(batches)


@QUICK
@given(case=cases(most_lanes=24), epoch=st.integers(0, 2), data=st.data())
def test_a_node_opens_its_part_of_the_shards(case: Case, epoch: int, data: st.DataObject) -> None:
    order = case.order()
    num_nodes = data.draw(st.sampled_from(divisors(case.lanes)))
    smallest, num_shards = min(filter(None, case.sizes)), sum(size > 0 for size in case.sizes)
    num_images = order.plan.steps_per_epoch * order.plan.global_batch // num_nodes
    total = 0
    for node in range(num_nodes):
        opened = order.epochs.shards(epoch, node, num_nodes).tolist()
        assert sorted(opened) == np.unique(shard_numbers(case, node_ids(order, epoch, node, num_nodes))).tolist()
        assert len(opened) <= (num_images - 2) // smallest + 2
        total += len(opened)
    assert total >= num_shards or case.last_batch == "drop"
    assert total <= num_shards + num_nodes or case.last_batch == "wrap"


@QUICK
@given(case=cases(last_batch="wrap"), epoch=st.integers(0, 2))
def test_windows_of_a_lane_follow_each_other_along_the_shards(case: Case, epoch: int) -> None:
    """From one place on the ring of shards, every window of every lane is at a multiple of the lane's length."""
    order = case.order()
    window, num = order.plan.lane_window, case.num_train
    firsts = np.cumsum([0, *case.sizes])
    shards = order.epochs.shards(epoch, 0, 1)
    ring = np.concatenate([np.arange(firsts[shard], firsts[shard + 1]) for shard in shards])
    places = np.argsort(ring)
    lanes = [places[node_ids(order, epoch, lane, case.lanes)] for lane in range(case.lanes)]

    def fits(start: int) -> bool:
        for number, visited in enumerate(lanes):
            expected = (start + number * len(visited) + np.arange(len(visited))) % num
            for i in range(0, len(visited), window):
                if sorted(visited[i : i + window]) != sorted(expected[i : i + window]):
                    return False
        return True

    assert any(fits(start) for start in range(case.sizes[shards[0]]))


def test_every_window_is_shuffled_differently() -> None:
    order = Case((400,), 4, 2, 80, "drop", 3).order()
    patterns = set()
    for epoch, lane in itertools.product(range(2), range(4)):
        for ids_W in node_ids(order, epoch, lane, 4).reshape(5, 20):
            places = (ids_W - ids_W[0] + 200) % 400  # a window may lie over the ring's seam
            patterns.add(tuple((places - places.min()).tolist()))
    assert all(sorted(pattern) == list(range(20)) for pattern in patterns)
    assert len(patterns - {tuple(range(20))}) == 2 * 4 * 5


def test_shards_come_in_another_order_every_epoch_and_for_every_seed() -> None:
    rings = set()
    for epoch, seed in itertools.product(range(3), range(3)):
        shards = Case((40,) * 10, 4, 2, 80, "wrap", seed).order().epochs.shards(epoch, 0, 1).tolist()
        assert sorted(shards) == list(range(10))
        rings.add((*shards[shards.index(0) :], *shards[: shards.index(0)]))
    assert len(rings) == 9


def chi_square(counts: Ids) -> float:
    return float(((counts - counts.mean()) ** 2 / counts.mean()).sum())


@pytest.mark.parametrize("sizes", [(10,), (7, 3)])
def test_images_are_dropped_equally_often(sizes: tuple[int, ...]) -> None:
    """Chi-square over 10 images of 3,000 epochs; 27.9 is the 99.9% point of 9 degrees."""
    order = Case(sizes, 3, 1, 9, "drop", 0).order()
    dropped_ids = np.concatenate([order.epochs.dropped_ids(epoch) for epoch in range(3000)])
    assert len(dropped_ids) == 3000
    assert chi_square(np.bincount(dropped_ids, minlength=10)) < 27.9


def test_images_come_first_equally_often() -> None:
    order = Case((4, 6), 2, 1, 8, "drop", 0).order()
    steps = [epoch * order.plan.steps_per_epoch + 1 for epoch in range(3000)]
    first = np.array([order.global_batch_ids(step)[0] for step in steps])
    assert chi_square(np.bincount(first, minlength=10)) < 27.9


GOLDEN_BATCH = [13, 14, 8, 4, 1, 5]
GOLDEN_SUM = 570_204_976_909


def test_the_order_of_every_published_run_stays() -> None:
    """Written down once: a change here makes every old run in lanes impossible to resume or to repeat."""
    order = Case((9, 4, 7), 2, 3, 12, "wrap", 42).order()
    assert order.global_batch_ids(2).tolist() == GOLDEN_BATCH
    long = Case(tuple(range(900, 1000)), 32, 8, 4096, "drop", 2**32 - 1).order()
    assert int(long.visits(2)[:5000] @ np.arange(5000)) == GOLDEN_SUM
