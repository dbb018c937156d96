"""Traits of a network that make a step's loss depend on the number of processes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from launcher.commands.jobs.verify_resume.compare import Tolerance
from launcher.models.frozen.freeze import freeze, set_training
from launcher.models.loss import count_outputs
from launcher.models.zoo import build_model
from launcher.recipe.facts import output_size
from launcher.recipe.fields import with_values
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe

FINE = 1e-3
"""Relative difference of losses. LeNet on digits differs by 1e-7 after four steps on other processes."""
ROUGH = 2e-2
"""The same with AMP, or with BatchNorm, which divides by the deviation of a few images: ResNet-18 on six images of
32 x 32 differs by 4e-4 after three steps on another number of threads."""


@dataclass(frozen=True, slots=True)
class NetworkTraits:
    is_random: bool
    """Whether a training pass draws random numbers, as dropout does."""
    has_batchnorm: bool
    """Whether a BatchNorm is in training mode."""


def probe_traits(recipe: Recipe, plan: Plan) -> NetworkTraits:
    """Send two images through the network, with random weights and in the last freezing stage that `plan` reaches."""
    backbone = recipe.backbone
    values: dict[str, Any] = {"weights": "none"}
    if backbone.head == "keep":  # there are no weights to keep it from
        values["head"] = {}
    size = output_size(recipe.augment.train)
    assert size is not None, "recipes with images of different sizes are refused"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_model(with_values(backbone, values), count_outputs(recipe.loss, plan.num_classes))
        freeze(network, backbone.stages[plan.stage(plan.total_steps)].freeze)
        set_training(network.model)
        before = torch.get_rng_state()
        network.model(torch.linspace(-1, 1, 2 * 3 * size[0] * size[1]).view(2, 3, *size))
        is_random = not torch.equal(before, torch.get_rng_state())
    norms = [module for module in network.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return NetworkTraits(is_random, any(norm.training for norm in norms))


def rounding_of(traits: NetworkTraits, recipe: Recipe) -> Tolerance:
    """Tolerance for losses whose sums are taken in another order, over some dozens of steps."""
    is_rough = traits.has_batchnorm or recipe.strategy.precision != "no"
    return Tolerance(ROUGH if is_rough else FINE, "sums are rounded in another order")


def why_not_comparable(traits: NetworkTraits, recipe: Recipe, plan: Plan, other: Plan) -> str | None:
    """Why losses may differ between the world sizes of `plan` and `other`; None where they must not."""
    if traits.is_random:
        return "the network draws random numbers, as dropout does, and each number of processes draws others"
    is_synced = recipe.strategy.sync_batchnorm  # over the images of all processes
    num_images, num_other = (each.micro_batch * (each.world_size if is_synced else 1) for each in (plan, other))
    if traits.has_batchnorm and num_images != num_other:
        same = "null" if is_synced else math.gcd(plan.micro_batch, other.micro_batch)
        return (
            f"BatchNorm sees {num_images} images at a time with world size {plan.world_size}, {num_other} with "
            f"{other.world_size}; train.micro_batch={same} makes them equal"
        )
    return None
