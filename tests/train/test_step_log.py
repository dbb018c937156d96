"""The train records of steps, and how the samples of a step are named to the user."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from launcher.distributed.comm import Comm
from launcher.distributed.world import World
from launcher.errors import UserError
from launcher.train.step_log import StepResult, describe_ranks, log_steps
from tests.harness.recorded_log import RecordedLog
from tests.harness.workdir import LENET, WorkDir


def result_of(step: int, loss: float, is_skipped: bool = False) -> StepResult:
    hashes_BD = np.full((2, 4), step, dtype=np.uint8)
    return StepResult(step, torch.tensor(loss), [np.array([step, step + 1])], [hashes_BD], is_skipped)


def test_the_loss_is_the_mean_since_the_last_record(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET, "log.every=2st"), RecordedLog()
    log_steps(parts.job, parts.inputs.timer, log, [result_of(1, 1.0), result_of(2, 4.0)])
    log_steps(parts.job, parts.inputs.timer, log, [result_of(3, 0.5)])
    first, second = log.records
    assert (first["step"], first["loss"], first["show"]) == (2, 2.5, True)
    assert (second["step"], second["loss"], second["show"]) == (3, 0.5, False)
    assert first["lr"] == parts.job.recipe.optim.lr
    assert {"images_per_s", "data_wait_frac"} < first.keys()
    assert "samples" not in first


def test_samples_are_those_of_the_last_step(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET, "log.samples=true"), RecordedLog()
    for step in (1, 2, 2):
        log_steps(parts.job, parts.inputs.timer, log, [result_of(step, 1.0)])
    one, two, again = log.records
    assert (one["samples"], two["samples"]) == ([1, 2], [2, 3])
    assert one["augmentation"] != two["augmentation"] == again["augmentation"]


def test_a_loss_that_is_not_finite_is_recorded_and_names_its_step(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET), RecordedLog()
    results = [result_of(1, 1.0), result_of(2, math.inf), result_of(3, math.nan)]
    with pytest.raises(UserError, match=r"^loss is nan at step 2, epoch 1, on rank 0 \(samples 2, 3\): lower optim.lr"):
        log_steps(parts.job, parts.inputs.timer, log, results)
    assert math.isnan(log.records[0]["loss"])


def test_skipped_steps_are_not_in_the_mean(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET, "train.on_nonfinite=skip"), RecordedLog()
    log_steps(parts.job, parts.inputs.timer, log, [result_of(1, 3.0), result_of(2, math.nan, is_skipped=True)])
    log_steps(parts.job, parts.inputs.timer, log, [result_of(3, math.nan, is_skipped=True)])
    assert log.records[0]["loss"] == 3.0
    assert math.isnan(log.records[1]["loss"]), "no step was taken"


def result_with(*ids: int) -> StepResult:
    return StepResult(1, torch.tensor(0.0), [np.array(ids[:2]), np.array(ids[2:], dtype=np.int64)], [])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((3, 17), "samples 3, 17"),
        (tuple(range(8)), "samples 0, 1, 2, 3, 4, 5, 6, 7"),
        (tuple(range(10)), "samples 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
    ],
)
def test_samples_are_named_and_many_are_cut_short(ids: tuple[int, ...], expected: str) -> None:
    assert result_with(*ids).samples == expected


def test_only_the_rank_that_it_is_about_is_described() -> None:
    comm = Comm(World())
    assert describe_ranks(comm, result_with(3, 17), is_mine=True) == "on rank 0 (samples 3, 17)"
    assert describe_ranks(comm, result_with(3, 17), is_mine=False) == ""
