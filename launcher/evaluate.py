"""Every image of a split, exactly once, on any number of processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from launcher.data.order import eval_batch_ids
from launcher.errors import Stopped
from launcher.feed import Feed
from launcher.loss import LossFunction, class_scores
from launcher.metrics import Counts
from launcher.recipe.plan import Plan
from launcher.strategy import Strategy


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: str,
    feed: Feed,
    loss: LossFunction,
    plan: Plan,
    strategy: Strategy,
    should_stop: Callable[[], bool] = lambda: False,
) -> Counts:
    """Counts over the whole of `split`, the same on every process.

    `model`: what takes the feed's inputs, without DDP around it.
    `should_stop` is asked at every batch; when some process says so, all of them raise Stopped at the same batch.
    """
    model.eval()
    strategy.share_buffers(model)
    counts = Counts(plan.num_classes, strategy.device)
    for examples in feed.batches((0, ids) for ids in eval_batch_ids(plan, split, strategy.world.rank)):
        if strategy.any_process(should_stop()):
            raise Stopped(f"stopped while evaluating {split}; the same command evaluates it again")
        with strategy.autocast():
            outputs_BO = model(*examples.inputs)
        losses_B = loss(outputs_BO, examples.labels_B)
        counts.add(class_scores(outputs_BO), examples.labels_B, losses_B, examples.weights_B)
    counts.reduce(strategy.sum)
    num_images = int(counts.total[0])
    assert num_images == plan.num_eval[split], f"{split}: counted {num_images} of {plan.num_eval[split]} images"
    return counts
