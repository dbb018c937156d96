"""The samples of each batch: a function of (seed, epoch, manifest, lanes), never a state. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from launcher import keyed_random
from launcher.data.ids import Ids
from launcher.data.lanes import LaneEpochs
from launcher.recipe.plan import Plan
from shards.manifest import Manifest

_ORDER = 1
"""Stream of random numbers of the order of samples; augmentation has others."""


@dataclass(frozen=True, slots=True)
class WholeEpochs:
    """Epochs in a random order of all images: every node opens every shard."""

    plan: Plan
    seed: int
    num_shards: int

    def batch_ids(self, epoch: int, batch: int, first: int, end: int) -> Ids:
        """Ids `first` to `end` of global batch `batch`, from 0, of an epoch."""
        order = epoch_order(self.plan.num_train, self.seed, epoch)
        # Past the end of the order only when the recipe wraps: the epoch's first samples fill its last batch.
        start = batch * self.plan.global_batch
        ids: Ids = order[np.arange(start + first, start + end) % self.plan.num_train]
        return ids

    def dropped_ids(self, epoch: int) -> Ids:
        """Ids of the images that are in no batch of an epoch."""
        order: Ids = epoch_order(self.plan.num_train, self.seed, epoch)
        return order[self.plan.steps_per_epoch * self.plan.global_batch :]

    def shards(self, epoch: int, node: int, num_nodes: int) -> Ids:
        """Numbers of the shards, in the manifest's order, that a node opens in an epoch."""
        return np.arange(self.num_shards)


@dataclass(frozen=True, slots=True)
class Order:
    """The training samples of every step."""

    plan: Plan
    epochs: WholeEpochs | LaneEpochs

    def global_batch_ids(self, step: int) -> Ids:
        """The ids of optimizer step `step` (from 1), shape [global_batch]; the same for any number of ranks."""
        return self._ids(step, 0, self.plan.global_batch)

    def micro_batch_ids(self, step: int, rank: int) -> Ids:
        """The ids of `rank` in step `step`, its part of the global batch: shape [accumulation, micro_batch]."""
        mine = self._ids(step, rank * self.plan.rank_batch, (rank + 1) * self.plan.rank_batch)
        return mine.reshape(self.plan.accumulation, self.plan.micro_batch)

    def visits(self, epoch: int) -> Ids:
        """All ids of an epoch, batch after batch, then the dropped ones."""
        first = epoch * self.plan.steps_per_epoch + 1
        batches = [self.global_batch_ids(first + i) for i in range(self.plan.steps_per_epoch)]
        return np.concatenate([*batches, self.epochs.dropped_ids(epoch)])

    def _ids(self, step: int, first: int, end: int) -> Ids:
        return self.epochs.batch_ids(self.plan.epoch(step), (step - 1) % self.plan.steps_per_epoch, first, end)


def build_order(plan: Plan, manifest: Manifest, seed: int) -> Order:
    sizes_S = np.array([shard.num_images for shard in manifest.shards_of("train")], dtype=np.int64)
    return Order(plan, LaneEpochs(plan, seed, sizes_S) if plan.lanes else WholeEpochs(plan, seed, len(sizes_S)))


@lru_cache(maxsize=2)
def epoch_order(num_images: int, seed: int, epoch: int) -> Ids:
    """All ids of an epoch without lanes, each once, in the order of training."""
    order = keyed_random.permutation(num_images, seed, _ORDER, epoch)
    order.setflags(write=False)
    return order
