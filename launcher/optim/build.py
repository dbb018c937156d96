"""Recipe section -> optimizer."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from launcher.recipe.optim import Adam as AdamSection
from launcher.recipe.optim import Optim

ADAMS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}


def build_optimizer(optim: Optim, model: nn.Module, precision: str) -> Optimizer:
    """Of the parameters that train. Fused: one kernel for all tensors, on CUDA and on the CPU.

    Not in fp16: a fused optimizer leaves a step out by itself, and nobody would hear of the overflow.
    """
    fused = precision != "fp16"
    groups = decay_groups(model, optim.weight_decay)
    if isinstance(optim, AdamSection):
        betas = (optim.beta1, optim.beta2)
        return ADAMS[optim.name](groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=fused)
    return SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    """Weights decay; biases and normalisation layers, which have one dimension, do not."""
    trainable: list[torch.nn.Parameter] = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, object]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
