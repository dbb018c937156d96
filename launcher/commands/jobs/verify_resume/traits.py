"""What makes a step's loss depend on how the batch is spread over processes: asked of the network itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from launcher.commands.jobs.verify_resume.compare import Tolerance
from launcher.models.frozen.freeze import freeze, frozen_names, set_training
from launcher.models.loss import count_outputs
from launcher.models.zoo import build_model
from launcher.recipe.backbone import Head
from launcher.recipe.facts import output_size
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe

FINE = 1e-3
"""Share of a loss. LeNet on digits is 1e-7 off after four steps on other processes."""
ROUGH = 2e-2
"""In AMP's precisions, or where BatchNorm divides by what a few images differ in: ResNet-18 on six images of 32 x 32 is
4e-4 off after three steps on another number of threads."""


@dataclass(frozen=True, slots=True)
class NetworkTraits:
    """`draws`: a training pass takes random numbers, as dropout does. `counts`: a BatchNorm is in training."""

    draws: bool
    counts: bool


def probe_traits(recipe: Recipe, plan: Plan) -> NetworkTraits:
    """Send two images through the network, with random weights and in the last stage of freezing that is reached."""
    backbone = recipe.backbone
    alike = backbone.model_copy(
        update={"weights": "none", "head": Head() if backbone.head == "keep" else backbone.head}
    )
    size = output_size(recipe.augment.train)
    assert size is not None, "a recipe whose images have different sizes is refused"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_model(alike, count_outputs(recipe.loss, plan.num_classes))
        freeze(network, frozen_names(network, backbone.stages[plan.stage(plan.total_steps)].freeze))
        set_training(network.model)
        before = torch.get_rng_state()
        network.model(torch.linspace(-1, 1, 2 * 3 * size[0] * size[1]).view(2, 3, *size))
        draws = not torch.equal(before, torch.get_rng_state())
    norms = [module for module in network.model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    return NetworkTraits(draws, any(norm.training for norm in norms))


def rounding_of(habits: NetworkTraits, recipe: Recipe) -> Tolerance:
    """How far sums in another order may take the losses of some dozens of steps apart."""
    is_rough = habits.counts or recipe.strategy.precision != "no"
    return Tolerance(ROUGH if is_rough else FINE, "sums are rounded in another order")


def why_not_comparable(habits: NetworkTraits, recipe: Recipe, plan: Plan, other: Plan) -> str | None:
    """Why losses on the processes of `other` are legitimately not those of `plan`; None where they should be."""
    if habits.draws:
        return "the network draws random numbers, as for dropout, and on other processes others"
    seen, seen_other = (_batchnorm_images(recipe, each) for each in (plan, other))
    if habits.counts and seen != seen_other:
        same = "null" if recipe.strategy.sync_batchnorm else math.gcd(plan.micro_batch, other.micro_batch)
        return (
            f"BatchNorm sees {seen} images together with world size {plan.world_size}, {seen_other} with "
            f"{other.world_size}; train.micro_batch={same} would make that the same"
        )
    return None


def _batchnorm_images(recipe: Recipe, plan: Plan) -> int:
    """Images that a BatchNorm takes its statistics of."""
    return plan.micro_batch * (plan.world_size if recipe.strategy.sync_batchnorm else 1)
