from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.recipe.plan import PlanError, make_plan
from launcher.recipe.plan_problems import MAX_IMAGES_WITHOUT_LANES
from tests.recipe.plans import plan_of, problem_paths, problems_in, recipe
from tests.recipe.right import QUICK, load

SMALL = st.integers(1, 12)
DIGITS = {"train": 1000, "valid": 100, "test": 200}
WORKING = "these numbers of ranks can"


@QUICK
@given(world_size=SMALL, global_batch=st.integers(1, 100))
def test_every_rank_has_the_same_share_or_there_is_no_plan(world_size: int, global_batch: int) -> None:
    wanted = recipe(train={"global_batch": global_batch})
    if global_batch % world_size:
        assert problem_paths(wanted, world_size) == ["train.global_batch"]
    else:
        plan = plan_of(wanted, world_size)
        assert (plan.rank_batch, plan.micro_batch, plan.accumulation) == (global_batch // world_size,) * 2 + (1,)


@QUICK
@given(wrong=st.integers(1, 200), world_size=st.integers(1, 30))
def test_proposed_global_batch_works(wrong: int, world_size: int) -> None:
    try:
        plan_of(recipe(train={"global_batch": wrong}), world_size, train=10_000)
        proposed = wrong
    except PlanError as error:
        proposed = int(error.problems[0].message.rpartition(" ")[2])
    assert proposed % world_size == 0
    assert abs(proposed - wrong) <= max(world_size - wrong, world_size // 2)


@QUICK
@given(rank_batch=st.integers(1, 60), micro_batch=st.integers(1, 80))
def test_proposed_micro_batch_works(rank_batch: int, micro_batch: int) -> None:
    wanted = recipe(train={"global_batch": 2 * rank_batch, "micro_batch": micro_batch})
    try:
        proposed = plan_of(wanted, 2, train=1000).micro_batch
    except PlanError as error:
        proposed = int(error.problems[0].message.rpartition(" ")[2])
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
        key: int(problem.message.rpartition(" ")[2]),
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
        what, _, named = problem.message.partition(": ")
        assert what == f"{lanes} lanes cannot be shared equally by {world_size} ranks; " + WORKING
        right = [int(number) for number in named.split(", ")]
        for number in range(1, 31):
            if number in right:
                assert plan_of(wanted, number, train=10_000).rank_batch * number == global_batch
            else:
                problem_paths(wanted, number, train=10_000)
        return
    assert lanes % world_size == 0
    assert (plan.lanes, plan.lane_window) == (lanes, 131072 // lanes)
    whole = plan_of(recipe(train={"global_batch": global_batch}), train=10_000)
    assert (plan.total_steps, plan.dropped_per_epoch) == (whole.total_steps, whole.dropped_per_epoch)


def test_proposed_numbers_of_ranks_can_mix_pairs() -> None:
    wanted = recipe(data={"lanes": 8}, train={"global_batch": 8}, augment={"mixup": {"alpha": 1.0}})
    assert [problem.message for problem in problems_in(wanted, 3)] == [
        f"8 lanes cannot be shared equally by 3 ranks; {WORKING}: 1, 2, 4"
    ]
    odd = recipe(data={"lanes": 3}, train={"global_batch": 3}, augment={"mixup": {"alpha": 1.0}})
    assert problems_in(odd, 2)[0].message == f"3 lanes cannot be shared equally by 2 ranks; {WORKING}: none"


def test_too_many_images_for_one_order_require_lanes() -> None:
    limit = MAX_IMAGES_WITHOUT_LANES
    assert problem_paths(recipe(train={"global_batch": 24}), 8, train=limit + 1) == ["data.lanes"]
    plan_of(recipe(train={"global_batch": 24}), 8, train=limit)
    [problem] = problems_in(recipe(train={"global_batch": 24}), 8, train=10**9)
    assert problem.message == (
        "required to order 1,000,000,000 training images without holding all their ids in memory; try 8"
    )
    plan_of(recipe(train={"global_batch": 24}, data={"lanes": 8}), 8, train=10**9)


def plan_errors(
    folder: Path, *overrides: str, world_size: int = 1, num_images: dict[str, int] = DIGITS, classes: int = 10
) -> list[str]:
    loaded = load(folder, overrides=overrides)
    with pytest.raises(PlanError) as raised:
        make_plan(loaded.recipe, world_size, num_images, classes)
    return [line.replace(f"{folder}/", "") for line in loaded.error(raised.value.problems).lines]


def test_global_batch_that_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, world_size=3) == [
        "recipe.yaml:24: train.global_batch: 32 cannot be shared equally by 3 ranks; try 33"
    ]


def test_lanes_that_ranks_cannot_share_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, "data.lanes=16", world_size=6) == [
        f"command line: data.lanes: 16 lanes cannot be shared equally by 6 ranks; {WORKING}: 1, 2, 4"
    ]


def test_micro_batch_that_does_not_divide_the_share_of_a_rank_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, world_size=8) == [
        "recipe.yaml:25: train.micro_batch: 8 does not divide the 4 images of one rank; try 4"
    ]


def test_odd_batches_cannot_be_mixed(tmp_path: Path) -> None:
    why = "augment.mixup and augment.cutmix mix images in pairs"
    mixup = "augment.mixup={alpha: 1.0}"
    assert plan_errors(tmp_path, mixup, "train={epochs: 1, global_batch: 33}") == [
        f"command line: train.global_batch: gives each rank 33 images, but {why}; try 32"
    ]
    assert plan_errors(tmp_path, mixup, "train.micro_batch=1", world_size=2) == [
        f"command line: train.micro_batch: 1 is odd, but {why}; try 2"
    ]


def test_data_without_a_train_split_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, num_images={"train": 0, "test": 5}) == [
        "recipe.yaml:6: data.dir: has no train split; it has test"
    ]


def test_global_batch_larger_than_the_data_is_refused(tmp_path: Path) -> None:
    [line] = plan_errors(tmp_path, num_images={"train": 31, "valid": 5})
    assert line == (
        "recipe.yaml:24: train.global_batch: 32 is more than the 31 training images; "
        "lower it or set data.last_batch=wrap"
    )


def test_patience_without_a_valid_split_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, "train.patience=2", num_images={"train": 100, "test": 5}) == [
        "command line: train.patience: has no effect: the data has no valid split; add one to data.split"
    ]


def test_top5_accuracy_of_five_classes_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, "train.best_metric=top5_accuracy", classes=5) == [
        "command line: train.best_metric: top5_accuracy is always 1 with 5 classes; use accuracy or loss"
    ]


def test_data_with_a_single_class_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, classes=1) == [
        "recipe.yaml:7: data.source: the data has 1 class; a classifier needs two or more"
    ]


def test_bce_of_ten_classes_is_refused(tmp_path: Path) -> None:
    assert plan_errors(tmp_path, "loss={name: bce}") == [
        "command line: loss.name: bce needs two classes, the data has 10; use cross_entropy"
    ]


def test_plan_reports_every_reason_at_once(tmp_path: Path) -> None:
    lines = plan_errors(tmp_path, "loss={name: bce}", "train.patience=1", world_size=3, num_images={"train": 5})
    assert [line.split(": ")[1] for line in lines] == [
        "train.global_batch",
        "train.global_batch",
        "loss.name",
        "train.patience",
    ]


def test_plan_error_is_a_line() -> None:
    with pytest.raises(PlanError, match=r"data.dir: has no train split; it has no images"):
        make_plan(recipe(), 1, {}, 10)
