"""Which splits of a stage are read from features, as a table: no network, no torch."""

from __future__ import annotations

from typing import Any

import pytest

from launcher.recipe.plan import Plan, make_plan
from launcher.train.choose_inputs import SplitInput, choose_inputs
from tests.data.made import recipe_of

IMAGES = {"train": 80, "valid": 8, "test": 16}
FLIPS = {"train": [{"op": "random_crop", "size": 32, "padding": 4}]}
ONE_KIB = dict.fromkeys(IMAGES, 1024)


def plan_for(**sections: Any) -> tuple[Plan, Any]:
    recipe = recipe_of(**{"train": {"epochs": 4, "global_batch": 8}, **sections})
    return make_plan(recipe, 1, IMAGES, 3), recipe.augment


def chosen(room_bytes: float, stage: int = 0, **sections: Any) -> dict[str, tuple[int, ...] | None]:
    plan, augment = plan_for(**sections)
    return {split: each.views for split, each in choose_inputs(plan, augment, stage, ONE_KIB, room_bytes).items()}


@pytest.mark.parametrize(
    ("room_kib", "sections", "expected"),
    [
        (200, {}, {"train": (0,), "valid": (0,), "test": (0,)}),
        (103, {}, {"train": None, "valid": (0,), "test": (0,)}),  # the smallest come first
        (10, {}, {"train": None, "valid": (0,), "test": None}),
        (0, {}, {"train": None, "valid": None, "test": None}),
        (1e9, {"augment": FLIPS}, {"train": None, "valid": (0,), "test": (0,)}),  # new views every epoch
        (1e9, {"augment": {**FLIPS, "views": 2}}, {"train": (0, 1), "valid": (0,), "test": (0,)}),
        (1e9, {"augment": {**FLIPS, "views": 9}}, {"train": (0, 1, 2, 3), "valid": (0,), "test": (0,)}),
        (1e9, {"augment": {"mixup": {"alpha": 1}}}, {"train": None, "valid": (0,), "test": (0,)}),
    ],
)
def test_features_are_kept_where_they_are_used_again_and_have_room(
    room_kib: float, sections: dict[str, Any], expected: dict[str, tuple[int, ...] | None]
) -> None:
    crop = {"eval": [{"op": "center_crop", "size": 32}], "train": [{"op": "center_crop", "size": 32}]}
    sections = {"augment": crop | sections.get("augment", {})}
    assert chosen(room_kib * 1024, **sections) == expected


def test_the_user_is_told_why_features_are_not_kept() -> None:
    plan, augment = plan_for()
    full = choose_inputs(plan, augment, 0, ONE_KIB, 10 * 1024)
    assert full["train"].note == "not kept, 80.0 KiB are more than strategy.feature_cache_gib has left"
    assert full["valid"] == SplitInput(num_images=32, views=(0,))
    plan, augment = plan_for(train={"epochs": "3st", "global_batch": 8})
    short = choose_inputs(plan, augment, 0, ONE_KIB, 1e9)
    assert short["train"] == SplitInput(24, None, "not kept, training is too short to use them all")


def test_only_the_last_stage_computes_features_of_the_test_split() -> None:
    freeze = {"schedule": [{"at": 0, "freeze": "backbone"}, {"at": 2, "freeze": {"except_last": 1}}]}
    sections = {"backbone": {"name": "lenet", "freeze": freeze}}
    assert [chosen(1e9, stage, **sections)["test"] for stage in (0, 1)] == [None, (0,)]
    plan, _ = plan_for(**sections)
    stages = [plan.stage_steps(stage) for stage in (0, 1)]
    assert stages == [range(1, 21), range(21, 41)]
    assert [plan.count_reads("train", steps) for steps in stages] == [160, 160]
    assert [plan.count_reads("valid", steps) for steps in stages] == [16, 16]
    assert plan.stage_steps(1, first=31) == range(31, 41)
