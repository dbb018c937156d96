"""What networks do in training, and what follows for losses on other processes."""

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

QUIET = NetworkTraits(draws=False, counts=False)


def plan(recipe: Recipe, world_size: int) -> Plan:
    return make_plan(recipe, world_size, {"train": 64}, 3)


def stages(at: int) -> dict[str, Any]:
    return {"schedule": [{"at": 0, "freeze": "backbone"}, {"at": f"{at}st", "freeze": "none"}]}


@pytest.mark.parametrize(
    ("backbone", "habits"),
    [
        ({"name": "lenet"}, QUIET),
        ({"name": "resnet18"}, NetworkTraits(draws=False, counts=True)),
        ({"name": "resnet18", "freeze": "backbone"}, QUIET),
        ({"name": "resnet18", "freeze": stages(15)}, NetworkTraits(draws=False, counts=True)),
        ({"name": "resnet18", "freeze": stages(16)}, QUIET),  # of 16 steps: never reached
        ({"name": "squeezenet1_1"}, NetworkTraits(draws=True, counts=False)),
        ({"name": "mobilenet_v3_small"}, NetworkTraits(draws=True, counts=True)),
        ({"name": "lenet", "head": {"hidden": [8], "dropout": 0.5}}, NetworkTraits(draws=True, counts=False)),
    ],
)
def test_networks_are_asked(backbone: Mapping[str, Any], habits: NetworkTraits) -> None:
    recipe = recipe_of(backbone=backbone, train={"epochs": "16st", "global_batch": 8})
    assert probe_traits(recipe, plan(recipe, 1)) == habits


def test_weights_are_not_looked_for() -> None:
    recipe = recipe_of(backbone={"name": "squeezenet1_1", "weights": "nowhere/weights.pt", "head": "keep"})
    assert probe_traits(recipe, plan(recipe, 1)).draws


def why(habits: NetworkTraits, other: int, **train: Any) -> str | None:
    recipe = recipe_of(train={"epochs": 1, "global_batch": 24, **train})
    return why_not_comparable(habits, recipe, plan(recipe, 2), plan(recipe, other))


def test_dropout_cannot_be_compared() -> None:
    assert why(QUIET, 1) is None
    assert why(NetworkTraits(draws=True, counts=False), 1) == (
        "the network draws random numbers, as for dropout, and on other processes others"
    )


def test_batchnorm_can_be_compared_where_it_sees_the_same_images() -> None:
    counts = NetworkTraits(draws=False, counts=True)
    assert why(counts, 1) == (
        "BatchNorm sees 12 images together with world size 2, 24 with 1; train.micro_batch=12 would make that the same"
    )
    assert "train.micro_batch=4 would" in str(why(counts, 3))
    assert why(counts, 3, micro_batch=4) is None


def test_rounding_is_rougher_in_amp_and_under_batchnorm() -> None:
    counts, plain, amp = NetworkTraits(draws=False, counts=True), recipe_of(), recipe_of(strategy={"precision": "bf16"})
    assert [rounding_of(*of).share for of in ((QUIET, plain), (counts, plain), (QUIET, amp))] == [FINE, ROUGH, ROUGH]


def test_a_batchnorm_over_all_processes_sees_what_they_see_together() -> None:
    for micro_batch, reason in ((None, None), (4, "BatchNorm sees 8 images together with world size 2, 4 with 1; ")):
        recipe = recipe_of(
            train={"epochs": 1, "global_batch": 24, "micro_batch": micro_batch}, strategy={"sync_batchnorm": True}
        )
        found = why_not_comparable(NetworkTraits(draws=False, counts=True), recipe, plan(recipe, 2), plan(recipe, 1))
        assert found == (reason and reason + "train.micro_batch=null would make that the same")
