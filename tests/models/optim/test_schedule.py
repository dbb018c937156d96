from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim import SGD
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    CosineAnnealingLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from launcher.models.optim.schedule import lr_factor
from tests.data.made import plan_of, recipe_of

PER_EPOCH = 8
EPOCHS = 10
TOTAL = PER_EPOCH * EPOCHS


def our_factors(schedule: Mapping[str, Any], epochs: int = EPOCHS) -> list[float]:
    sections: dict[str, Any] = {"schedule": schedule, "train": {"epochs": epochs, "global_batch": 8}}
    plan = plan_of(8 * PER_EPOCH, **sections)
    return [lr_factor(recipe_of(**sections).schedule, plan, step) for step in range(1, plan.total_steps + 1)]


def torch_factors(make: Callable[[SGD], LRScheduler], steps: int = TOTAL) -> list[float]:
    """Learning rate of each step under one of torch's schedulers, stepped per batch, from a rate of 1."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def rise(optimizer: SGD, steps: int) -> LinearLR:
    return LinearLR(optimizer, start_factor=1 / steps, total_iters=steps - 1)


def test_constant_is_1() -> None:
    assert our_factors({"name": "constant"}) == [1.0] * TOTAL


def test_constant_rises_in_the_warmup() -> None:
    assert our_factors({"name": "constant", "warmup": 2}) == pytest.approx(torch_factors(lambda o: rise(o, 16)))


@pytest.mark.parametrize("every", [1, 3, "5st", "20im"])
def test_step_is_torchs(every: int | str) -> None:
    steps = {1: 8, 3: 24, "5st": 5, "20im": 3}[every]
    ours = our_factors({"name": "step", "every": every, "gamma": 0.3})
    assert ours == pytest.approx(torch_factors(lambda o: StepLR(o, steps, 0.3)))


def test_steps_are_counted_from_the_start_with_a_warmup_too() -> None:
    ours = our_factors({"name": "step", "every": 3, "warmup": 2})
    assert ours == pytest.approx(torch_factors(lambda o: ChainedScheduler([rise(o, 16), StepLR(o, 24)])))


@pytest.mark.parametrize("end", [0.0, 0.1])
def test_cosine_is_torchs(end: float) -> None:
    ours = our_factors({"name": "cosine", "end_factor": end})
    assert ours == pytest.approx(torch_factors(lambda o: CosineAnnealingLR(o, TOTAL, end)))


@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step")  # torch's own SequentialLR does that
def test_cosine_starts_after_the_warmup() -> None:
    ours = our_factors({"name": "cosine", "warmup": 2})
    theirs = torch_factors(
        lambda o: SequentialLR(o, [rise(o, 16), CosineAnnealingLR(o, TOTAL - 16)], milestones=[16]),
    )
    assert ours == pytest.approx(theirs)


@pytest.mark.parametrize(("warmup", "share"), [(None, 0.3), (1, 0.1), (5, 0.5)])
def test_onecycle_is_torchs(warmup: int | None, share: float) -> None:
    theirs = torch_factors(
        lambda o: OneCycleLR(o, 1.0, total_steps=TOTAL, pct_start=share, cycle_momentum=False), TOTAL - 1
    )
    assert our_factors({"name": "onecycle", "warmup": warmup})[:-1] == pytest.approx(theirs)


def test_onecycle_ends_at_a_250000th() -> None:
    factors = our_factors({"name": "onecycle"})
    assert factors[0] == pytest.approx(1 / 25)
    assert max(factors) == 1.0
    assert factors[-1] == pytest.approx(1 / 250_000)


SCHEDULES = st.one_of(
    st.fixed_dictionaries({"name": st.sampled_from(["constant", "cosine"]), "warmup": st.integers(0, 6)}),
    st.fixed_dictionaries({"name": st.just("step"), "every": st.integers(1, 6), "warmup": st.integers(0, 6)}),
    st.fixed_dictionaries({"name": st.just("onecycle"), "warmup": st.sampled_from([None, "1st", "2st", 1, 3, 6])}),
)


@given(schedule=SCHEDULES, epochs=st.integers(1, 4))
def test_factors_are_between_0_and_1_however_short_the_training(schedule: dict[str, Any], epochs: int) -> None:
    factors = our_factors(schedule, epochs)
    assert all(0 < factor <= 1 for factor in factors)


def test_factors_depend_on_the_step_only() -> None:
    sections: dict[str, Any] = {"schedule": {"name": "cosine", "warmup": 1}}
    plan, schedule = plan_of(**sections), recipe_of(**sections).schedule
    steps = list(range(1, plan.total_steps + 1))
    expected = {step: lr_factor(schedule, plan, step) for step in steps}
    random.Random(0).shuffle(steps)
    assert {step: lr_factor(schedule, plan, step) for step in steps} == expected
