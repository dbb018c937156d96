"""Recipe section -> optimizer, and the groups of parameters that it steps."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from launcher.models.weights import is_in
from launcher.recipe.optim import Adam as AdamSection
from launcher.recipe.optim import Optim

ADAMS: dict[str, type[Adam]] = {"adam": Adam, "adamw": AdamW}

Group = dict[str, Any]


def build_optimizer(optim: Optim, groups: list[Group], precision: str) -> Optimizer:
    """Fused: one kernel for all tensors, on CUDA and on the CPU.

    Not in fp16: a fused optimizer skips a step by itself, and the overflow could not be reported.
    """
    fused = precision != "fp16"
    if isinstance(optim, AdamSection):
        betas = (optim.beta1, optim.beta2)
        return ADAMS[optim.name](groups, lr=optim.lr, betas=betas, eps=optim.eps, fused=fused)
    return SGD(groups, lr=optim.lr, momentum=optim.momentum, nesterov=optim.nesterov, fused=fused)


def build_groups(
    optim: Optim,
    model: nn.Module,
    head_names: Collection[str],
    blocks: Sequence[Collection[str]],
    but: Collection[str] = (),
) -> list[Group]:
    """Groups of the parameters that train, without those named in `but`: one for each `lr_scale` and weight decay.

    `lr_scale`: the group's learning rate over the recipe's. `blocks`: of the backbone, in order, for `layer_decay`.
    Weights decay; biases and the parameters of normalisation layers, which have one dimension, do not.
    """
    groups: dict[tuple[float, float], Group] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and name not in but:
            scale = _lr_scale(optim, name, head_names, blocks)
            decay = optim.weight_decay if parameter.ndim > 1 else 0.0
            group = groups.setdefault((scale, decay), {"params": [], "weight_decay": decay, "lr_scale": scale})
            group["params"].append(parameter)
    return list(groups.values())


def _lr_scale(optim: Optim, name: str, head_names: Collection[str], blocks: Sequence[Collection[str]]) -> float:
    if is_in(name, head_names):
        return 1.0
    if optim.backbone_lr is not None:
        return optim.backbone_lr / optim.lr
    if optim.layer_decay is not None:
        # Parameters outside of all blocks, such as ViT's class token, come before the first.
        depths = [len(blocks) - i for i, block in enumerate(blocks) if is_in(name, block)]
        return float(optim.layer_decay ** (depths[0] if depths else len(blocks) + 1))
    return 1.0
