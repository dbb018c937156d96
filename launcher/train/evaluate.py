"""Every image of a split, exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from launcher.data.feed import Examples, Feed
from launcher.data.order import portion_ids
from launcher.distributed.strategy import Strategy
from launcher.errors import Stopped, UserError
from launcher.metrics.counts import Counts
from launcher.models.loss import LossFunction, class_scores

Note = Callable[[Examples, Tensor, Tensor], None]
"""Is told of every batch, padding included: (examples, scores_BK, losses_B)."""


class Sizes(Protocol):
    """What an evaluation must know beforehand. A `Plan` is one."""

    @property
    def num_classes(self) -> int: ...

    @property
    def num_eval(self) -> Mapping[str, int]:
        """Images of each split."""

    @property
    def eval_batch(self) -> int:
        """Images per forward pass of one process."""

    @property
    def world_size(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Portions:
    """`Sizes` of an evaluation that belongs to no training."""

    num_classes: int
    num_eval: Mapping[str, int]
    eval_batch: int
    world_size: int


def ignore(_examples: Examples, _scores_BK: Tensor, _losses_B: Tensor) -> None:
    """A `Note` for who wants the counts alone."""


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: str,
    feed: Feed,
    loss: LossFunction,
    plan: Sizes,
    strategy: Strategy,
    should_stop: Callable[[], bool] = lambda: False,
    can_leave_out: bool = False,
    note: Note = ignore,
) -> Counts:
    """Counts over the whole of `split`, the same on every process.

    `model`: what takes the feed's inputs, without DDP around it.
    `should_stop` is asked at every batch; when some process says so, all of them raise Stopped at the same batch.
    `can_leave_out`: whether images that cannot be read may be missing in what is counted.
    """
    model.eval()
    strategy.pulse.enter("eval")
    strategy.share_buffers(model)
    counts = Counts(plan.num_classes, strategy.device)
    mine = portion_ids(plan.num_eval[split], plan.world_size, plan.eval_batch, strategy.world.rank)
    for examples in feed.batches((0, ids_B) for ids_B in mine):
        strategy.pulse.enter("eval")
        if strategy.any_process(should_stop()):
            raise Stopped(f"stopped while evaluating {split}; the same command evaluates it again")
        with strategy.autocast():
            outputs_BO = model(*examples.inputs)
        losses_B = loss(outputs_BO, examples.labels_B)
        scores_BK = class_scores(outputs_BO)
        counts.add(scores_BK, examples.labels_B, losses_B, examples.weights_B)
        note(examples, scores_BK, losses_B)
        counts.seen += int((examples.ids_B >= 0).sum())
    counts.reduce(strategy.sum)
    _check_total(counts, split, plan.num_eval[split], can_leave_out)
    return counts


def _check_total(counts: Counts, split: str, wanted: int, can_leave_out: bool) -> None:
    """Raise AssertionError unless each image came by once, UserError when none of them can be read."""
    seen, counted = int(counts.seen[0]), int(counts.total[0])
    assert seen == wanted, f"{split}: saw {seen} of {wanted} images"
    if not counted:
        raise UserError(f"{split}: none of its {wanted} images can be read; see 'python -m shards check'")
    assert counted == wanted or can_leave_out, f"{split}: counted {counted} of {wanted} images"
