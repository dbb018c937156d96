"""Every image of a split, exactly once, on any number of processes."""

from __future__ import annotations

import torch
from torch import nn

from launcher.data.order import portion_ids
from launcher.feed import Feed
from launcher.loss import LossFunction, class_scores
from launcher.metrics import Counts
from launcher.recipe.plan import Plan
from launcher.strategy import Strategy


@torch.no_grad()
def evaluate(model: nn.Module, split: str, feed: Feed, loss: LossFunction, plan: Plan, strategy: Strategy) -> Counts:
    """Counts over the whole of `split`, the same on every process.

    `model`: what takes the feed's inputs, without DDP around it, so that no process waits for another before the counts
    are summed.
    """
    model.eval()
    strategy.pulse.enter("eval")
    strategy.share_buffers(model)
    counts = Counts(plan.num_classes, strategy.device)
    mine = portion_ids(plan.num_eval[split], plan.world_size, plan.eval_batch, strategy.world.rank)
    for examples in feed.batches((0, ids_B) for ids_B in mine):
        strategy.pulse.enter("eval")
        with strategy.autocast():
            outputs_BO = model(*examples.inputs)
        losses_B = loss(outputs_BO, examples.labels_B)
        counts.add(class_scores(outputs_BO), examples.labels_B, losses_B, examples.weights_B)
    counts.reduce(strategy.sum)
    num_images = int(counts.total[0])
    assert num_images == plan.num_eval[split], f"{split}: counted {num_images} of {plan.num_eval[split]} images"
    return counts
