"""Plain recipes, changed by section, and their plans."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.recipe.parse import PLAIN
from launcher.recipe.plan import Plan, PlanError, make_plan
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Recipe


def recipe(**sections: dict[str, Any]) -> Recipe:
    """A plain recipe; `name` in a section replaces it, other keys are added to it."""
    changed = {name: keys if "name" in keys else {**PLAIN.get(name, {}), **keys} for name, keys in sections.items()}
    return Recipe.from_plain({**PLAIN, **changed})


def plan_of(recipe: Recipe, world_size: int = 1, num_classes: int = 10, **num_images: int) -> Plan:
    return make_plan(recipe, world_size, num_images or {"train": 100, "valid": 10, "test": 20}, num_classes)


def problems_in(recipe: Recipe, world_size: int = 1, num_classes: int = 10, **num_images: int) -> list[Problem]:
    with pytest.raises(PlanError) as raised:
        plan_of(recipe, world_size, num_classes, **num_images)
    return raised.value.problems


def problem_paths(recipe: Recipe, world_size: int = 1, num_classes: int = 10, **num_images: int) -> list[str]:
    return [problem.path for problem in problems_in(recipe, world_size, num_classes, **num_images)]
