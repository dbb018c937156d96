"""Every image of a split, exactly once, on any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from launcher.data.feed import Examples, Feed
from launcher.data.ids import portion_ids
from launcher.distributed.comm import never
from launcher.distributed.strategy import Strategy
from launcher.errors import Stopped, UserError
from launcher.metrics.counts import Counts
from launcher.models.loss import LossFunction, class_scores
from launcher.train.job import Job
from launcher.train.stage import Stage

OnBatch = Callable[[Examples, Tensor, Tensor], None]
"""Called with every batch, padding included: (examples, scores_BK, losses_B)."""


@dataclass(frozen=True, slots=True)
class EvalSplit:
    """`batch`: images per forward pass of one rank. `may_skip`: whether unreadable images may be missing."""

    name: str
    num_images: int
    num_classes: int
    batch: int
    may_skip: bool = False


def evaluate_stage(job: Job, stage: Stage, split: str) -> Counts:
    """The network of a training as it stands, on one of its splits."""
    may_skip = job.recipe.data.on_error == "skip"
    wanted = EvalSplit(split, job.plan.num_eval[split], job.plan.num_classes, job.plan.eval_batch, may_skip)
    return evaluate(stage.eval_model, stage.feeds[split], stage.eval_loss, wanted, job.strategy)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    feed: Feed,
    loss: LossFunction,
    split: EvalSplit,
    strategy: Strategy,
    should_stop: Callable[[], bool] = never,
    on_batch: OnBatch | None = None,
) -> Counts:
    """Counts over the whole of `split`, the same on every rank.

    `model`: takes the feed's inputs, without DDP around it. `should_stop`: asked at every batch beside signals; when
    some rank answers yes, all of them raise Stopped at the same batch.
    """
    comm = strategy.comm
    model.eval()
    comm.beacon.enter("evaluate")
    comm.broadcast_buffers(model)
    counts = Counts(split.num_classes, strategy.device)
    mine = portion_ids(split.num_images, comm.world.size, split.batch, comm.world.rank)
    for examples in feed.batches((0, ids_B) for ids_B in mine):
        comm.beacon.enter("evaluate")
        if comm.agree_to_stop(also=should_stop()):
            raise Stopped(f"stopped while evaluating {split.name}; the same command evaluates it again")
        with strategy.autocast():
            outputs_BO = model(*examples.inputs)
        losses_B = loss(outputs_BO, examples.labels_B)
        scores_BK = class_scores(outputs_BO)
        counts.add(scores_BK, examples.labels_B, losses_B, examples.weights_B)
        if on_batch is not None:
            on_batch(examples, scores_BK, losses_B)
        counts.seen += int((examples.ids_B >= 0).sum())
    counts.reduce(comm.sum)
    _check_total(counts, split)
    return counts


def _check_total(counts: Counts, split: EvalSplit) -> None:
    """Raise AssertionError unless each image was seen once, UserError when none of them can be read."""
    seen, counted, wanted = int(counts.seen[0]), int(counts.total[0]), split.num_images
    assert seen == wanted, f"{split.name}: saw {seen} of {wanted} images"
    if not counted:
        raise UserError(f"{split.name}: none of its {wanted} images can be read; see 'python -m shards check'")
    assert counted == wanted or split.may_skip, f"{split.name}: counted {counted} of {wanted} images"
