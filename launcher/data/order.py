"""Which samples form which batch: a function of (seed, epoch, number of images), never a state.

A sample's id is its position in its split: shard after shard in the manifest's order. Needs no torch.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from launcher import keyed
from launcher.recipe.plan import Plan

Ids = npt.NDArray[np.int64]

_ORDER = 1
"""Stream of random numbers that belongs to the order of samples; augmentation has others."""


@lru_cache(maxsize=2)
def epoch_order(num_images: int, seed: int, epoch: int) -> Ids:
    """All ids of an epoch, each once, in the order in which training visits them."""
    order = keyed.permutation(num_images, seed, _ORDER, epoch)
    order.setflags(write=False)
    return order


def global_batch_ids(plan: Plan, seed: int, step: int) -> Ids:
    """The ids of optimizer step `step` (from 1), shape [global_batch]; the same for any number of processes."""
    order = epoch_order(plan.num_train, seed, plan.epoch(step))
    start = (step - 1) % plan.steps_per_epoch * plan.global_batch
    # Past the end of the order only when the recipe wraps: the epoch's first samples fill its last batch.
    return order[np.arange(start, start + plan.global_batch) % plan.num_train]


def micro_batch_ids(plan: Plan, seed: int, step: int, rank: int) -> Ids:
    """What `rank` computes in step `step`, shape [accumulation, micro_batch]: its equal part of the global batch."""
    mine = global_batch_ids(plan, seed, step)[rank * plan.rank_batch : (rank + 1) * plan.rank_batch]
    return mine.reshape(plan.accumulation, plan.micro_batch)


def portion_ids(num_images: int, world_size: int, batch: int, rank: int) -> Ids:
    """The ids of one of `world_size` equal portions in order, shape [steps, batch]; -1 is padding at the end.

    Every rank gets the same number of steps.
    """
    portion = -(-num_images // world_size)
    mine = np.arange(min(rank * portion, num_images), min((rank + 1) * portion, num_images), dtype=np.int64)
    ids = np.full((-(-portion // batch), batch), -1, dtype=np.int64)
    ids.reshape(-1)[: len(mine)] = mine
    return ids


def eval_batch_ids(plan: Plan, split: str, rank: int) -> Ids:
    """What `rank` evaluates, shape [steps, eval_batch]: each image of `split` once over all ranks; -1 is padding.

    Every rank gets the same number of steps.
    """
    shape = (plan.eval_steps(split), plan.world_size, plan.eval_batch)
    ids = np.full(shape, -1, dtype=np.int64)
    ids.reshape(-1)[: plan.num_eval[split]] = np.arange(plan.num_eval[split])
    return ids[:, rank]
