"""Losses. B batch, K classes, O outputs of the network: K, or 1 for bce.

Targets are labels_B, or for mixed images the share of each class: targets_BK.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from launcher.recipe.schema import Bce, Loss

LossFunction = Callable[[Tensor, Tensor], Tensor]
"""(outputs_BO, targets) -> losses_B."""

Outputs = Tensor | tuple[Tensor, ...]
"""outputs_BO, or in training (outputs_BO, auxiliary outputs_BO, ...)."""

TrainLoss = Callable[[Outputs, Tensor], Tensor]
"""(outputs, targets) -> losses_B."""


def count_outputs(loss: Loss, num_classes: int) -> int:
    """Number of outputs that the network must have."""
    return 1 if isinstance(loss, Bce) else num_classes


def build_loss(loss: Loss, training: bool) -> LossFunction:
    """The loss; with label smoothing in training only."""
    if isinstance(loss, Bce):
        return _bce
    smoothing = loss.label_smoothing if training else 0.0

    def cross_entropy(outputs_BO: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs_BO.float(), targets, label_smoothing=smoothing, reduction="none")

    return cross_entropy


def with_auxiliary(loss: LossFunction, weight: float) -> TrainLoss:
    """The loss of a network that may have auxiliary classifiers in training: each adds `weight` times its own loss."""

    def total(outputs: Outputs, targets: Tensor) -> Tensor:
        if isinstance(outputs, Tensor):
            return loss(outputs, targets)
        main_BO, *others = outputs
        return loss(main_BO, targets) + weight * torch.stack([loss(each, targets) for each in others]).sum(0)

    return total


def class_scores(outputs_BO: Tensor) -> Tensor:
    """scores_BK, the largest being the prediction; for a single logit: 0 for class 0, the logit for class 1."""
    if outputs_BO.shape[1] > 1:
        return outputs_BO
    return torch.cat([torch.zeros_like(outputs_BO), outputs_BO], dim=1)


def _bce(outputs_BO: Tensor, targets: Tensor) -> Tensor:
    outputs_B = outputs_BO.squeeze(1).float()
    targets_B = targets if targets.dim() == 1 else targets[:, 1]
    return F.binary_cross_entropy_with_logits(outputs_B, targets_B.to(outputs_B.dtype), reduction="none")
