"""An epoch in lanes: a node reads few shards, nearly from end to end, and batches are the same on any number of nodes.

The epoch's shards, in an order of its own, are laid end to end to a ring of all images. From a place of its own, the
ring is cut into L lanes of equal length. The dropped images come after the last lane; where the recipe wraps, the last
lanes run into the images of the first instead:

    ring    |  shard 4  | shard 0 |   shard 2   | shard 1 |  shard 3  |
    lanes       |    0    |    1    |    2    |    3    |  dropped ...

Within a lane, windows of neighbors are shuffled. A global batch takes the next images of every lane, in lane order;
each rank reads the same lanes all through the epoch. No array is as long as the data, only as the list of shards or
as a window, so any step of any epoch is found at once. Needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from launcher import keyed_random
from launcher.data.ids import Ids
from launcher.recipe.plan import Plan

# Streams of random numbers of lanes.
_SHARDS, _START, _WINDOW = 3, 4, 5


@dataclass(frozen=True, eq=False)
class LaneEpochs:
    """Epochs in lanes. `sizes_S`: images of each training shard, in the manifest's order."""

    plan: Plan
    seed: int
    sizes_S: Ids

    def batch_ids(self, epoch: int, batch: int, first: int, end: int) -> Ids:
        """Ids `first` to `end`, both where a lane's share begins, of global batch `batch`, from 0, of an epoch."""
        share, window = self._share, self.plan.lane_window
        lanes = first // share, end // share
        start, stop = batch * share, (batch + 1) * share
        parts = []
        for number in range(start // window, (stop - 1) // window + 1):
            places_LW = _shuffled(self, epoch, number, *lanes)
            parts.append(places_LW[:, max(start - number * window, 0) : stop - number * window])
        return self._locate(epoch, np.concatenate(parts, axis=1).reshape(-1))

    def dropped_ids(self, epoch: int) -> Ids:
        return self._locate(epoch, np.arange(self.lane_images * self.plan.lanes, self.plan.num_train))

    def shards(self, epoch: int, node: int, num_nodes: int) -> Ids:
        """Numbers of the shards that one of `num_nodes` equal nodes opens in an epoch, as its lanes pass over them.

        Its images are m = steps_per_epoch x global_batch / num_nodes neighbors on the ring: in at most
        (m - 2) // s + 2 shards, where s is the fewest images of a shard that has any. Of S shards, all nodes together
        open at most S + num_nodes where last_batch is drop: a shard twice only where it is cut between two nodes.
        """
        ring = _ring(self, epoch)
        num = self.lane_images * self.plan.lanes // num_nodes
        first = (node * num + ring.start) % self.plan.num_train
        last = (first + num - 1) % self.plan.num_train
        low, high = (int(np.searchsorted(ring.ends_S, place, side="right")) for place in (first, last))
        num_shards = len(ring.ends_S)
        is_all = num >= self.plan.num_train or (high == low and last < first)
        num_touched = num_shards if is_all else (high - low) % num_shards + 1
        opened: Ids = ring.shards_S[(low + np.arange(num_touched)) % num_shards]
        return opened[self.sizes_S[opened] > 0]

    @property
    def lane_images(self) -> int:
        """Images of each lane in an epoch."""
        return self.plan.steps_per_epoch * self._share

    @property
    def _share(self) -> int:
        """Images of a global batch that come from one lane."""
        return self.plan.global_batch // self.plan.lanes

    def _locate(self, epoch: int, places_P: Ids) -> Ids:
        """The ids at places on the ring, counted from the start of the first lane."""
        ring = _ring(self, epoch)
        places_P = (places_P + ring.start) % self.plan.num_train
        ids_P: Ids = places_P + ring.shifts_S[np.searchsorted(ring.ends_S, places_P, side="right")]
        return ids_P


@dataclass(frozen=True, slots=True)
class _Ring:
    """Shards of an epoch in order, the places where they end, and in each the id of an image minus its place."""

    shards_S: Ids
    ends_S: Ids
    shifts_S: Ids
    start: int


@lru_cache(maxsize=4)
def _ring(epochs: LaneEpochs, epoch: int) -> _Ring:
    sizes_S = epochs.sizes_S
    shards_S = keyed_random.permutation(len(sizes_S), epochs.seed, _SHARDS, epoch)
    ends_S = np.cumsum(sizes_S[shards_S])
    shifts_S = np.cumsum(sizes_S)[shards_S] - ends_S
    # Without it, only images at the end of a shard would ever be dropped.
    start = int(keyed_random.bits(epochs.seed, _START, epoch)[0] % np.uint64(epochs.plan.num_train))
    return _Ring(shards_S, ends_S, shifts_S, start)


@lru_cache(maxsize=4)
def _shuffled(epochs: LaneEpochs, epoch: int, number: int, first_lane: int, end_lane: int) -> Ids:
    """places_LW: window `number` of each of these lanes, in the order of training."""
    window = epochs.plan.lane_window
    lanes_L1 = np.arange(first_lane, end_lane, dtype=np.int64)[:, None]
    rows_W = np.arange(min(window, epochs.lane_images - number * window), dtype=np.int64)
    words_LW = keyed_random.bits(epochs.seed, _WINDOW, epoch, lanes_L1, number, rows_W)
    places_LW = lanes_L1 * epochs.lane_images + number * window + np.argsort(words_LW, axis=1, kind="stable")
    places_LW.setflags(write=False)
    return places_LW
