from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.recipe.plan import Due
from launcher.recipe.schema import Recipe
from tests.recipe.plans import plan_of, problem_paths, recipe
from tests.recipe.right import QUICK

SMALL = st.integers(1, 12)


@QUICK
@given(world_size=SMALL, micro_batch=SMALL, accumulation=SMALL, num_train=st.integers(1, 5000), wraps=st.booleans())
def test_numbers_of_a_plan_fit_together(
    world_size: int, micro_batch: int, accumulation: int, num_train: int, wraps: bool
) -> None:
    global_batch = world_size * micro_batch * accumulation
    wanted = recipe(
        train={"global_batch": global_batch, "micro_batch": micro_batch},
        data={"last_batch": "wrap" if wraps else "drop"},
    )
    if global_batch > num_train and not wraps:
        assert problem_paths(wanted, world_size, train=num_train) == ["train.global_batch"]
        return
    plan = plan_of(wanted, world_size, train=num_train)
    assert plan.rank_batch * plan.world_size == plan.global_batch == global_batch
    assert (plan.accumulation, plan.micro_batch) == (accumulation, micro_batch)
    seen = plan.steps_per_epoch * global_batch
    assert seen == num_train - plan.dropped_per_epoch + plan.wrapped_per_epoch
    assert 0 <= plan.dropped_per_epoch < global_batch
    assert 0 <= plan.wrapped_per_epoch < global_batch
    assert plan.dropped_per_epoch == 0 or not wraps
    assert plan.wrapped_per_epoch == 0 or wraps
    assert plan.steps_per_epoch >= 1


@QUICK
@given(
    epochs=st.floats(0.01, 20),
    every=st.floats(0.01, 5),
    global_batch=st.integers(1, 50),
    num_train=st.integers(50, 400),
)
def test_every_interval_is_at_least_one_step(epochs: float, every: float, global_batch: int, num_train: int) -> None:
    plan = plan_of(
        recipe(
            train={"epochs": epochs, "global_batch": global_batch, "evaluate_every": every},
            checkpoint={"every": every},
            schedule={"name": "step", "every": every},
        ),
        train=num_train,
    )
    assert plan.total_steps >= 1
    assert min(plan.evaluate_every_steps, plan.checkpoint_every_steps, plan.drop_every_steps) >= 1
    assert plan.due(plan.total_steps, should_stop=False, is_stage_end=False) == Due(True, True, True, False)


@QUICK
@given(global_batch=st.integers(1, 60), num_train=st.integers(60, 300), epochs=st.integers(1, 5))
def test_epochs_are_equally_long(global_batch: int, num_train: int, epochs: int) -> None:
    plan = plan_of(recipe(train={"epochs": epochs, "global_batch": global_batch}), train=num_train)
    of_steps = [plan.epoch(step) for step in range(1, plan.total_steps + 1)]
    assert of_steps == [epoch for epoch in range(epochs) for _ in range(plan.steps_per_epoch)]


def test_durations_become_steps() -> None:
    plan = plan_of(
        recipe(
            train={"epochs": "3ep", "global_batch": 8, "evaluate_every": "0.5ep"},
            schedule={"name": "cosine", "warmup": "40im"},
            checkpoint={"every": "7st"},
            log={"every": "5st"},
        ),
    )
    assert (plan.steps_per_epoch, plan.total_steps, plan.dropped_per_epoch) == (12, 36, 4)
    assert (plan.evaluate_every_steps, plan.warmup_steps) == (6, 5)
    assert (plan.checkpoint_every_steps, plan.log_every_steps, plan.drop_every_steps) == (7, 5, 0)
    assert [step for step in range(1, 37) if plan.should_save(step)] == [7, 14, 21, 28, 35, 36]
    assert [step for step in range(1, 37) if plan.should_validate(step)] == [6, 12, 18, 24, 30, 36]
    assert [step for step in range(1, 37) if plan.should_log(step)] == [5, 10, 15, 20, 25, 30, 35, 36]


def test_batch_larger_than_the_data_wraps() -> None:
    plan = plan_of(recipe(train={"global_batch": 64}, data={"last_batch": "wrap"}), train=10)
    assert (plan.steps_per_epoch, plan.wrapped_per_epoch, plan.dropped_per_epoch) == (1, 54, 0)


def test_data_that_fits_is_neither_dropped_nor_wrapped() -> None:
    for last_batch in ("drop", "wrap"):
        plan = plan_of(recipe(train={"global_batch": 25}, data={"last_batch": last_batch}))
        assert (plan.steps_per_epoch, plan.wrapped_per_epoch, plan.dropped_per_epoch) == (4, 0, 0)


def test_without_an_interval_only_the_last_step_saves() -> None:
    plan = plan_of(recipe(checkpoint={"every": None}))
    assert plan.checkpoint_every_steps == 0
    assert [step for step in range(1, 101) if plan.should_save(step)] == [100]
    assert not plan.due(50, should_stop=False, is_stage_end=False).save
    assert plan.due(50, should_stop=True, is_stage_end=False).save
    assert plan.due(50, should_stop=False, is_stage_end=True).save


# Epochs of 12 steps, 30 steps in all; a record every 5 steps, a validation every 6, a checkpoint every 8.
@pytest.mark.parametrize(
    ("step", "conditions", "expected"),
    [
        (1, "", ""),
        (5, "", "log"),
        (6, "", "log validate"),
        (8, "", "log save"),
        (12, "", "log validate report"),
        (24, "", "log validate save report"),
        (20, "", "log"),
        (30, "", "log validate save"),
        (1, "stop", "log save"),
        (5, "stop", "log save"),
        (6, "stop", "log validate save"),
        (8, "stop", "log save"),
        (12, "stop", "log validate save report"),
        (30, "stop", "log validate save"),
        (1, "stage_end", "log save"),
        (6, "stage_end", "log validate save"),
        (8, "stage_end", "log save"),
        (12, "stage_end", "log validate save report"),
        (30, "stage_end", "log validate save"),
        (7, "stop stage_end", "log save"),
        (12, "stop stage_end", "log validate save report"),
    ],
)
def test_due_after_a_step(step: int, conditions: str, expected: str) -> None:
    plan = plan_of(
        recipe(
            train={"epochs": "30st", "global_batch": 8, "evaluate_every": "6st"},
            checkpoint={"every": "8st"},
            log={"every": "5st"},
        )
    )
    assert (plan.steps_per_epoch, plan.total_steps) == (12, 30)
    due = plan.due(step, should_stop="stop" in conditions, is_stage_end="stage_end" in conditions)
    assert " ".join(name for name, is_so in asdict(due).items() if is_so) == expected


def test_last_step_of_the_last_epoch_is_not_reported() -> None:
    plan = plan_of(recipe(train={"epochs": 2, "global_batch": 10}))
    reported = [step for step in range(1, 21) if plan.due(step, should_stop=False, is_stage_end=False).report]
    assert (plan.total_steps, reported) == (20, [10])


def test_every_step_is_due_when_every_interval_is_one() -> None:
    plan = plan_of(recipe(train={"epochs": "3st", "global_batch": 100, "evaluate_every": "1st"}, log={"every": "1st"}))
    assert [plan.due(step, should_stop=False, is_stage_end=False) for step in (1, 2, 3)] == [
        Due(True, True, True, True),
        Due(True, True, True, True),
        Due(True, True, True, False),
    ]


def test_onecycle_rises_for_three_tenths_by_default() -> None:
    assert plan_of(recipe(schedule={"name": "onecycle"})).warmup_steps == 30
    assert plan_of(recipe(schedule={"name": "onecycle", "warmup": "7st"})).warmup_steps == 7


def test_splits_without_images_are_not_evaluated() -> None:
    assert plan_of(recipe(), train=10, valid=0, test=5).num_eval == {"test": 5}


def test_eval_batch_is_the_micro_batch_by_default() -> None:
    assert plan_of(recipe(train={"global_batch": 8, "micro_batch": 2}), 2).eval_batch == 2
    assert plan_of(recipe(train={"global_batch": 8, "eval_batch": 50}), 2).eval_batch == 50


@pytest.mark.parametrize(
    ("sections", "num_images", "note"),
    [
        ({"schedule": {"name": "step", "every": "9ep"}}, {}, "schedule.every 9ep is not shorter than the training"),
        ({"schedule": {"name": "cosine", "warmup": "1ep"}}, {}, "schedule.warmup 1ep is not shorter than the training"),
        ({"backbone": {"freeze": "backbone"}}, {}, "backbone.freeze freezes random weights"),
        ({}, {"train": 10, "test": 5}, "no valid split"),
        (
            {"schedule": {"name": "onecycle"}, "train": {"patience": 1}},
            {},
            "train.patience may end a onecycle schedule",
        ),
    ],
)
def test_surprising_choice_is_noted(sections: dict[str, Any], num_images: dict[str, int], note: str) -> None:
    if "backbone" in sections:
        sections = {"backbone": {"name": "lenet", **sections["backbone"]}}
    [found] = plan_of(recipe(**sections), **num_images).notes
    assert found.startswith(note)


def staged(*starts: object, **train: Any) -> Recipe:
    """Stages that begin at `starts`; batches of 10 out of 100 images for 3 epochs."""
    freezes: list[object] = ["backbone", *({"except_last": i} for i in range(1, len(starts)))]
    stages = [{"at": at, "freeze": freeze} for at, freeze in zip(starts, freezes, strict=True)]
    backbone = {"name": "resnet18", "weights": "DEFAULT", "freeze": {"schedule": stages}}
    return recipe(backbone=backbone, train={"epochs": 3, "global_batch": 10, **train})


@pytest.mark.parametrize(
    ("starts", "expected"),
    [
        ((0,), (0,)),
        ((0, 1, "2ep"), (0, 10, 20)),
        ((0, "0.25ep"), (0, 3)),
        (("0st", "7st", "8st"), (0, 7, 8)),
        ((0, "50im", "51im"), (0, 5, 6)),
    ],
)
def test_stages_begin_after_whole_steps(starts: tuple[object, ...], expected: tuple[int, ...]) -> None:
    plan = plan_of(staged(*starts))
    assert plan.stage_starts == expected
    assert plan.notes == ()
    of_steps = [sum(step > start for start in expected) - 1 for step in range(1, 31)]
    assert [plan.stage(step) for step in range(1, 31)] == of_steps
    spread = [(stage, step) for stage, steps in plan.steps_by_stage(1) for step in steps]
    assert spread == list(zip(of_steps, range(1, 31), strict=True))


def test_resumed_run_starts_in_its_stage() -> None:
    plan = plan_of(staged(0, "7st", "20st"))
    assert list(plan.steps_by_stage(1)) == [(0, range(1, 8)), (1, range(8, 21)), (2, range(21, 31))]
    assert list(plan.steps_by_stage(7)) == [(0, range(7, 8)), (1, range(8, 21)), (2, range(21, 31))]
    assert list(plan.steps_by_stage(8)) == [(1, range(8, 21)), (2, range(21, 31))]
    assert list(plan.steps_by_stage(30)) == [(2, range(30, 31))]
    assert list(plan.steps_by_stage(31)) == []


@pytest.mark.parametrize("at", ["3ep", "30st", "4ep", "300im"])
def test_stage_that_is_never_reached_is_noted(at: str) -> None:
    plan = plan_of(staged(0, at))
    assert plan.notes == (f"backbone.freeze: the stage at {at} is never reached",)
    assert list(plan.steps_by_stage(1)) == [(0, range(1, 31))]


def test_first_of_two_stages_at_the_same_step_has_no_steps() -> None:
    plan = plan_of(staged(0, "1im", "2im"))
    assert plan.stage_starts == (0, 1, 1)
    assert list(plan.steps_by_stage(1)) == [(0, range(1, 2)), (2, range(2, 31))]
    assert plan.stage(2) == 2
    assert plan.notes == ("backbone.freeze: two stages begin at the same step; the first of them has no steps",)


def test_plain_plan_has_no_notes() -> None:
    assert plan_of(recipe()).notes == ()
