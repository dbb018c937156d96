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
def evaluate(
    model: nn.Module,
    split: str,
    feed: Feed,
    loss: LossFunction,
    plan: Plan,
    strategy: Strategy,
    can_leave_out: bool = False,
) -> Counts:
    """Counts over the whole of `split`, the same on every process.

    `model`: what takes the feed's inputs, without DDP around it, so that no process waits for another before the counts
    are summed. `can_leave_out`: whether images that cannot be read may be missing in what is counted.
    """
    model.eval()
    strategy.pulse.enter("eval")
    strategy.share_buffers(model)
    counts, num_seen = Counts(plan.num_classes, strategy.device), 0
    mine = portion_ids(plan.num_eval[split], plan.world_size, plan.eval_batch, strategy.world.rank)
    for examples in feed.batches((0, ids_B) for ids_B in mine):
        strategy.pulse.enter("eval")
        with strategy.autocast():
            outputs_BO = model(*examples.inputs)
        losses_B = loss(outputs_BO, examples.labels_B)
        counts.add(class_scores(outputs_BO), examples.labels_B, losses_B, examples.weights_B)
        num_seen += int((examples.ids_B >= 0).sum())
    counts.reduce(strategy.sum)
    num_seen = sum(strategy.gather(num_seen))
    assert num_seen == plan.num_eval[split], f"{split}: saw {num_seen} of {plan.num_eval[split]} images"
    counts.num_left_out = num_seen - int(counts.total[0])
    assert counts.num_left_out == 0 or can_leave_out, f"{split}: {counts.num_left_out} images were not counted"
    return counts
