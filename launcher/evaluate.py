"""Every image of a split, exactly once, on any number of processes."""

from __future__ import annotations

import torch
from torch import nn

from launcher.augment.pipeline import Augment
from launcher.data.loader import Loader
from launcher.data.order import eval_batch_ids
from launcher.loss import LossFunction, class_scores
from launcher.metrics import Counts
from launcher.recipe.plan import Plan
from launcher.strategy import Strategy


@torch.inference_mode()
def evaluate(
    model: nn.Module, split: str, loader: Loader, augment: Augment, loss: LossFunction, plan: Plan, strategy: Strategy
) -> Counts:
    """Counts over the whole of `split`, the same on every process.

    `model`: without DDP around it, so that no process waits for another before the counts are summed.
    """
    model.eval()
    strategy.share_buffers(model)
    counts = Counts(plan.num_classes, strategy.device)
    for batch in loader.batches(eval_batch_ids(plan, split, strategy.world.rank)):
        images_BCHW = strategy.layout(augment(batch.canvas_BCHW, batch.sizes_B2, batch.ids_B, 0, 0))
        with strategy.autocast():
            outputs_BO = model(images_BCHW)
        losses_B = loss(outputs_BO, batch.labels_B)
        counts.add(class_scores(outputs_BO), batch.labels_B, losses_B, batch.weights_B)
    counts.reduce(strategy.sum)
    num_images = int(counts.total[0])
    assert num_images == plan.num_eval[split], f"{split}: counted {num_images} of {plan.num_eval[split]} images"
    return counts
