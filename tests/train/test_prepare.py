"""A recipe made ready without asking the networks' libraries, and its plan."""

from __future__ import annotations

import pytest

from launcher.errors import RecipeError
from launcher.recipe.parse import load_recipe
from launcher.train.prepare import complete_recipe, plan_run
from tests.data.made import manifest_of
from tests.harness.runs import DIGITS


def test_a_recipe_that_is_whole_stays_as_it_is() -> None:
    loaded = load_recipe(DIGITS)
    assert complete_recipe(loaded, pytest.fail) is loaded.recipe


def test_an_unknown_backbone_is_refused_with_its_place_and_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"backbone\.name: .*lenett.*lenet"):
        complete_recipe(load_recipe(DIGITS, ["backbone.name=lenett"]), pytest.fail)


def test_the_plan_counts_the_manifest() -> None:
    loaded = load_recipe(DIGITS, ["train.global_batch=32"])
    plan = plan_run(loaded, loaded.recipe, 2, manifest_of([100, 60]))
    assert (plan.num_train, plan.num_eval, plan.steps_per_epoch, plan.rank_batch) == (160, {}, 5, 16)


def test_a_plan_that_does_not_fit_names_the_line_of_the_recipe() -> None:
    loaded = load_recipe(DIGITS)
    with pytest.raises(RecipeError, match=r"lenet_digits\.yaml:\d+: train\.global_batch: "):
        plan_run(loaded, loaded.recipe, 3, manifest_of([100]))
