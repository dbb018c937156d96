"""Traits of networks, and what follows for losses on another number of processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from launcher.commands.jobs.verify_resume.traits import (
    FINE,
    ROUGH,
    NetworkTraits,
    probe_traits,
    rounding_of,
    why_not_comparable,
)
from launcher.recipe.plan import Plan, make_plan
from launcher.recipe.schema import Recipe
from tests.data.made import recipe_of

PLAIN = NetworkTraits(is_random=False, has_batchnorm=False)
BATCHNORM = NetworkTraits(is_random=False, has_batchnorm=True)
RANDOM = NetworkTraits(is_random=True, has_batchnorm=False)


def plan(recipe: Recipe, world_size: int) -> Plan:
    return make_plan(recipe, world_size, {"train": 64}, 3)


def stages(at: int) -> dict[str, Any]:
    return {"schedule": [{"at": 0, "freeze": "backbone"}, {"at": f"{at}st", "freeze": "none"}]}


@pytest.mark.parametrize(
    ("backbone", "traits"),
    [
        ({"name": "lenet"}, PLAIN),
        ({"name": "resnet18"}, BATCHNORM),
        ({"name": "resnet18", "freeze": "backbone"}, PLAIN),
        ({"name": "resnet18", "freeze": stages(15)}, BATCHNORM),
        ({"name": "resnet18", "freeze": stages(16)}, PLAIN),  # of 16 steps: never reached
        ({"name": "squeezenet1_1"}, RANDOM),
        ({"name": "mobilenet_v3_small"}, NetworkTraits(is_random=True, has_batchnorm=True)),
        ({"name": "lenet", "head": {"hidden": [8], "dropout": 0.5}}, RANDOM),
    ],
)
def test_traits_follow_from_the_network(backbone: Mapping[str, Any], traits: NetworkTraits) -> None:
    recipe = recipe_of(backbone=backbone, train={"epochs": "16st", "global_batch": 8})
    assert probe_traits(recipe, plan(recipe, 1)) == traits


def test_probe_needs_no_weights() -> None:
    recipe = recipe_of(backbone={"name": "squeezenet1_1", "weights": "nowhere/weights.pt", "head": "keep"})
    assert probe_traits(recipe, plan(recipe, 1)).is_random


def why(traits: NetworkTraits, other: int, **train: Any) -> str | None:
    recipe = recipe_of(train={"epochs": 1, "global_batch": 24, **train})
    return why_not_comparable(traits, recipe, plan(recipe, 2), plan(recipe, other))


def test_losses_with_dropout_cannot_be_compared() -> None:
    assert why(PLAIN, 1) is None
    assert why(RANDOM, 1) == (
        "the network draws random numbers, as dropout does, and each number of processes draws others"
    )


def test_losses_with_batchnorm_can_be_compared_when_it_sees_as_many_images() -> None:
    assert why(BATCHNORM, 1) == (
        "BatchNorm sees 12 images at a time with world size 2, 24 with 1; train.micro_batch=12 makes them equal"
    )
    assert "train.micro_batch=4 makes" in str(why(BATCHNORM, 3))
    assert why(BATCHNORM, 3, micro_batch=4) is None


def test_tolerance_is_larger_with_amp_and_with_batchnorm() -> None:
    plain, amp = recipe_of(), recipe_of(strategy={"precision": "bf16"})
    assert [rounding_of(*case).relative for case in ((PLAIN, plain), (BATCHNORM, plain), (PLAIN, amp))] == [
        FINE,
        ROUGH,
        ROUGH,
    ]


def test_synchronized_batchnorm_sees_the_images_of_all_processes() -> None:
    for micro_batch, reason in ((None, None), (4, "BatchNorm sees 8 images at a time with world size 2, 4 with 1; ")):
        recipe = recipe_of(
            train={"epochs": 1, "global_batch": 24, "micro_batch": micro_batch}, strategy={"sync_batchnorm": True}
        )
        found = why_not_comparable(BATCHNORM, recipe, plan(recipe, 2), plan(recipe, 1))
        assert found == (reason and reason + "train.micro_batch=null makes them equal")
