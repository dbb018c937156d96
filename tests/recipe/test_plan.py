from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.recipe.parse import PLAIN
from launcher.recipe.plan import MOST_WITHOUT_LANES, Plan, PlanError, make_plan
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Recipe
from tests.recipe.right import QUICK

SMALL = st.integers(1, 12)


def recipe(**sections: dict[str, Any]) -> Recipe:
    """A plain recipe; `name` in a section replaces it, other keys are added to it."""
    changed = {name: keys if "name" in keys else {**PLAIN.get(name, {}), **keys} for name, keys in sections.items()}
    return Recipe.model_validate_json(json.dumps({**PLAIN, **changed}))


def plan_of(recipe: Recipe, world_size: int = 1, num_classes: int = 10, **num_images: int) -> Plan:
    return make_plan(recipe, world_size, num_images or {"train": 100, "valid": 10, "test": 20}, num_classes)


def problems_in(recipe: Recipe, world_size: int = 1, num_classes: int = 10, **num_images: int) -> list[Problem]:
    with pytest.raises(PlanError) as raised:
        plan_of(recipe, world_size, num_classes, **num_images)
    return raised.value.problems


def problems_of(recipe: Recipe, world_size: int = 1, num_classes: int = 10, **num_images: int) -> list[str]:
    return [problem.path for problem in problems_in(recipe, world_size, num_classes, **num_images)]


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
        assert problems_of(wanted, world_size, train=num_train) == ["train.global_batch"]
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
@given(world_size=SMALL, global_batch=st.integers(1, 100))
def test_every_process_has_the_same_share_or_there_is_no_plan(world_size: int, global_batch: int) -> None:
    wanted = recipe(train={"global_batch": global_batch})
    if global_batch % world_size:
        assert problems_of(wanted, world_size) == ["train.global_batch"]
    else:
        plan = plan_of(wanted, world_size)
        assert (plan.rank_batch, plan.micro_batch, plan.accumulation) == (global_batch // world_size,) * 2 + (1,)


@QUICK
@given(wrong=st.integers(1, 200), world_size=st.integers(1, 30))
def test_global_batch_that_is_proposed_is_right(wrong: int, world_size: int) -> None:
    try:
        plan_of(recipe(train={"global_batch": wrong}), world_size, train=10_000)
        proposed = wrong
    except PlanError as error:
        proposed = int(error.problems[0].what.rpartition(" ")[2])
    assert proposed % world_size == 0
    assert abs(proposed - wrong) <= max(world_size - wrong, world_size // 2)


@QUICK
@given(rank_batch=st.integers(1, 60), micro_batch=st.integers(1, 80))
def test_micro_batch_that_is_proposed_is_right(rank_batch: int, micro_batch: int) -> None:
    # Made by copying: the recipe's own check does not know how many processes there will be.
    wanted = recipe(train={"global_batch": 2 * rank_batch})
    wanted = wanted.model_copy(update={"train": wanted.train.model_copy(update={"micro_batch": micro_batch})})
    try:
        proposed = plan_of(wanted, 2, train=1000).micro_batch
    except PlanError as error:
        proposed = int(error.problems[0].what.rpartition(" ")[2])
    assert rank_batch % proposed == 0
    assert proposed <= micro_batch


@QUICK
@given(world_size=SMALL, global_batch=st.integers(1, 100), micro_batch=st.none() | SMALL)
def test_mixed_images_need_even_micro_batches(world_size: int, global_batch: int, micro_batch: int | None) -> None:
    section = {"global_batch": world_size * global_batch, "micro_batch": micro_batch}
    try:
        plan = plan_of(recipe(train=section), world_size, train=10_000)
    except (PlanError, ValueError):
        return
    mixed = recipe(augment={"cutmix": {"alpha": 1}}, train=section)
    if plan.micro_batch % 2 == 0:
        assert plan_of(mixed, world_size, train=10_000) == plan
        return
    with pytest.raises(PlanError) as raised:
        plan_of(mixed, world_size, train=10_000)
    [problem] = raised.value.problems
    key = problem.path.removeprefix("train.")
    proposed = {
        **section,
        key: int(problem.what.rpartition(" ")[2]),
        **({} if "micro" in key else {"micro_batch": None}),
    }
    assert (
        plan_of(recipe(augment={"mixup": {"alpha": 1}}, train=proposed), world_size, train=10_000).micro_batch % 2 == 0
    )


@QUICK
@given(lanes=SMALL, share=SMALL, micro_batch=st.sampled_from([None, 1, 2, 3]), world_size=st.integers(1, 30))
def test_lanes_are_shared_equally_or_every_number_that_works_is_named(
    lanes: int, share: int, micro_batch: int | None, world_size: int
) -> None:
    global_batch = lanes * share * (micro_batch or 1)
    wanted = recipe(data={"lanes": lanes}, train={"global_batch": global_batch, "micro_batch": micro_batch})
    try:
        plan = plan_of(wanted, world_size, train=10_000)
    except PlanError as error:
        [problem] = error.problems
        if problem.path == "train.micro_batch":
            assert lanes % world_size == 0
            return
        what, _, named = problem.what.partition(": ")
        assert what == f"{lanes} lanes cannot be shared equally by {world_size} processes; " + WORKING
        right = [int(number) for number in named.split(", ")]
        for number in range(1, 31):
            if number in right:
                assert plan_of(wanted, number, train=10_000).rank_batch * number == global_batch
            else:
                problems_of(wanted, number, train=10_000)
        return
    assert lanes % world_size == 0
    assert (plan.lanes, plan.lane_window) == (lanes, 131072 // lanes)
    whole = plan_of(recipe(train={"global_batch": global_batch}), train=10_000)
    assert (plan.total_steps, plan.dropped_per_epoch) == (whole.total_steps, whole.dropped_per_epoch)


WORKING = "these numbers of processes can"


def test_processes_that_lanes_name_can_mix_pairs() -> None:
    wanted = recipe(data={"lanes": 8}, train={"global_batch": 8}, augment={"mixup": {"alpha": 1.0}})
    assert [problem.what for problem in problems_in(wanted, 3)] == [
        f"8 lanes cannot be shared equally by 3 processes; {WORKING}: 1, 2, 4"
    ]
    odd = recipe(data={"lanes": 3}, train={"global_batch": 3}, augment={"mixup": {"alpha": 1.0}})
    assert problems_in(odd, 2)[0].what == f"3 lanes cannot be shared equally by 2 processes; {WORKING}: none"


def test_more_images_than_fit_in_one_order_need_lanes() -> None:
    most = MOST_WITHOUT_LANES
    assert problems_of(recipe(train={"global_batch": 24}), 8, train=most + 1) == ["data.lanes"]
    plan_of(recipe(train={"global_batch": 24}), 8, train=most)
    [problem] = problems_in(recipe(train={"global_batch": 24}), 8, train=10**9)
    assert problem.what == (
        "needed to put 1,000,000,000 training images in order without holding all their numbers in memory; try 8"
    )
    plan_of(recipe(train={"global_batch": 24}, data={"lanes": 8}), 8, train=10**9)


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
    assert plan.is_evaluation(plan.total_steps)
    assert plan.is_checkpoint(plan.total_steps)
    assert plan.is_record(plan.total_steps)


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
            log={"every": 5},
        ),
    )
    assert (plan.steps_per_epoch, plan.total_steps, plan.dropped_per_epoch) == (12, 36, 4)
    assert (plan.evaluate_every_steps, plan.warmup_steps) == (6, 5)
    assert (plan.checkpoint_every_steps, plan.log_every_steps, plan.drop_every_steps) == (7, 5, 0)
    assert [step for step in range(1, 37) if plan.is_checkpoint(step)] == [7, 14, 21, 28, 35, 36]
    assert [step for step in range(1, 37) if plan.is_evaluation(step)] == [6, 12, 18, 24, 30, 36]
    assert [step for step in range(1, 37) if plan.is_record(step)] == [5, 10, 15, 20, 25, 30, 35, 36]


def test_wrapping_a_batch_larger_than_the_data() -> None:
    plan = plan_of(recipe(train={"global_batch": 64}, data={"last_batch": "wrap"}), train=10)
    assert (plan.steps_per_epoch, plan.wrapped_per_epoch, plan.dropped_per_epoch) == (1, 54, 0)


def test_data_that_fits_is_neither_dropped_nor_wrapped() -> None:
    for last_batch in ("drop", "wrap"):
        plan = plan_of(recipe(train={"global_batch": 25}, data={"last_batch": last_batch}))
        assert (plan.steps_per_epoch, plan.wrapped_per_epoch, plan.dropped_per_epoch) == (4, 0, 0)


def test_no_regular_checkpoints() -> None:
    plan = plan_of(recipe(checkpoint={"every": None}))
    assert plan.checkpoint_every_steps == 0
    assert [step for step in range(1, 101) if plan.is_checkpoint(step)] == [100]


def test_onecycle_rises_for_three_tenths_unless_told() -> None:
    assert plan_of(recipe(schedule={"name": "onecycle"})).warmup_steps == 30
    assert plan_of(recipe(schedule={"name": "onecycle", "warmup": "7st"})).warmup_steps == 7


def test_splits_without_images_are_not_evaluated() -> None:
    assert plan_of(recipe(), train=10, valid=0, test=5).num_eval == {"test": 5}


def test_eval_batch_is_the_micro_batch_unless_told() -> None:
    assert plan_of(recipe(train={"global_batch": 8, "micro_batch": 2}), 2).eval_batch == 2
    assert plan_of(recipe(train={"global_batch": 8, "eval_batch": 50}), 2).eval_batch == 50


@pytest.mark.parametrize(
    ("sections", "num_images", "note"),
    [
        ({"schedule": {"name": "step", "every": "9ep"}}, {}, "schedule.every 9ep is not shorter than the training"),
        ({"schedule": {"name": "cosine", "warmup": "1ep"}}, {}, "schedule.warmup 1ep is not shorter than the training"),
        ({"backbone": {"freeze": "backbone"}}, {}, "backbone.freeze holds random weights"),
        ({}, {"train": 10, "test": 5}, "no valid split"),
        (
            {"schedule": {"name": "onecycle"}, "train": {"patience": 1}},
            {},
            "train.patience may end a onecycle schedule",
        ),
    ],
)
def test_what_surprises_is_noted(sections: dict[str, Any], num_images: dict[str, int], note: str) -> None:
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


def test_a_resumed_run_goes_on_in_its_stage() -> None:
    plan = plan_of(staged(0, "7st", "20st"))
    assert list(plan.steps_by_stage(1)) == [(0, range(1, 8)), (1, range(8, 21)), (2, range(21, 31))]
    assert list(plan.steps_by_stage(7)) == [(0, range(7, 8)), (1, range(8, 21)), (2, range(21, 31))]
    assert list(plan.steps_by_stage(8)) == [(1, range(8, 21)), (2, range(21, 31))]
    assert list(plan.steps_by_stage(30)) == [(2, range(30, 31))]
    assert list(plan.steps_by_stage(31)) == []


@pytest.mark.parametrize("at", ["3ep", "30st", "4ep", "300im"])
def test_a_stage_that_is_never_reached_is_noted(at: str) -> None:
    plan = plan_of(staged(0, at))
    assert plan.notes == (f"backbone.freeze: the stage at {at} is never reached",)
    assert list(plan.steps_by_stage(1)) == [(0, range(1, 31))]


def test_stages_that_fall_together_leave_the_first_without_steps() -> None:
    plan = plan_of(staged(0, "1im", "2im"))
    assert plan.stage_starts == (0, 1, 1)
    assert list(plan.steps_by_stage(1)) == [(0, range(1, 2)), (2, range(2, 31))]
    assert plan.stage(2) == 2
    assert plan.notes == ("backbone.freeze: two stages begin at the same step, the first of them has none",)


def test_plain_plan_has_nothing_to_note() -> None:
    assert plan_of(recipe()).notes == ()


def test_plan_error_says_everything() -> None:
    with pytest.raises(PlanError, match=r"data.dir: has no train split; it has no images"):
        make_plan(recipe(), 1, {}, 10)
