"""The decisions of the training loop as tables; one step of it on a real network; when a validation counts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from launcher.checkpoint.saver import Saver
from launcher.checkpoint.snapshot import Snapshot
from launcher.checkpoint.state import Best, Progress
from launcher.recipe.plan import Due
from launcher.train.loop import fit, is_validation_due, should_save, validate, why_end
from tests.data.made import plan_of
from tests.harness.small_run import best_at
from tests.harness.workdir import LENET, WorkDir

PLAN = plan_of(64, train={"epochs": 2, "global_batch": 8, "evaluate_every": "5st"})
"""16 steps; validations after 5, 10, 15 and 16."""
NOTHING_DUE = Due(log=False, validate=False, save=False, report=False)


@pytest.mark.parametrize(
    ("step", "validated_step", "expected"),
    [(0, 0, False), (4, 0, False), (5, 0, True), (5, 5, False), (7, 5, False), (15, 10, True), (16, 15, True)],
)
def test_a_validation_is_due_until_it_is_done(step: int, validated_step: int, expected: bool) -> None:
    assert is_validation_due(PLAN, Progress(step, validated_step=validated_step)) == expected


@pytest.mark.parametrize(
    ("step", "validated_step", "bad", "should_stop", "patience", "expected"),
    [
        (4, 0, 0, False, None, None),
        (4, 0, 0, True, None, "preempted"),
        (5, 0, 0, False, None, "preempted"),  # the validation was interrupted
        (5, 5, 0, False, None, None),
        (5, 5, 3, False, None, None),  # nobody is impatient
        (5, 5, 2, False, 3, None),
        (5, 5, 3, False, 3, "early_stopped"),
        (7, 5, 4, False, 3, "early_stopped"),
        (5, 5, 3, True, 3, "preempted"),  # it resumes, and ends at once
        (16, 16, 0, False, 3, None),  # the plan is done, which is no early end
    ],
)
def test_why_training_ends(
    step: int, validated_step: int, bad: int, should_stop: bool, patience: int | None, expected: str | None
) -> None:
    progress = Progress(step, validated_step=validated_step, num_bad_validations=bad)
    assert why_end(PLAN, progress, should_stop=should_stop, patience=patience) == expected


@pytest.mark.parametrize(
    ("due", "best", "ending", "expected"),
    [
        (NOTHING_DUE, None, None, False),
        (replace(NOTHING_DUE, log=True, validate=True, report=True), best_at(3), None, False),
        (NOTHING_DUE, best_at(4), None, True),
        (replace(NOTHING_DUE, save=True), None, None, True),
        (NOTHING_DUE, None, "preempted", True),
        (NOTHING_DUE, best_at(3), "early_stopped", True),
    ],
)
def test_step_4_is_saved(due: Due, best: Best | None, ending: str | None, expected: bool) -> None:
    assert should_save(due, Progress(4, best), ending) == expected  # type: ignore[arg-type]


def test_fit_does_every_step_of_the_plan_once(workdir: WorkDir) -> None:
    parts = workdir.build(LENET, "train.epochs=4st", "train.evaluate_every=2st")
    job, stage = parts.job, parts.enter(0)
    saver = Saver(job.run.checkpoints, job.recipe.checkpoint, parts.state, parts.log)
    reached, progress, ending = fit(job, stage, Progress(), saver, parts.log)
    saver.close()
    assert (reached, progress.step, progress.validated_step, ending) == (stage, 4, 4, "done")
    assert len(workdir.losses()) == 4
    again = fit(job, stage, progress, saver, parts.log)
    assert again == (stage, progress, "done"), "nothing is left to do"


def test_a_save_that_fails_after_a_resume_keeps_the_best_that_is_on_disk(
    workdir: WorkDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = workdir.build(LENET, "train.epochs=4st", "train.evaluate_every=2st")
    saver = Saver(parts.job.run.checkpoints, parts.job.recipe.checkpoint, parts.state, parts.log)
    write, snapshots = saver._write, []

    def fail_once(snapshot: Snapshot) -> float:
        snapshots.append(snapshot)
        if len(snapshots) == 1:
            raise OSError("No space left on device")
        return write(snapshot)

    monkeypatch.setattr(saver, "_write", fail_once)
    perfect = Best(1, 1, "accuracy", 1.0, {"accuracy": 1.0})
    _, progress, ending = fit(parts.job, parts.enter(0), Progress(2, perfect), saver, parts.log)
    saver.close()
    assert (progress.best, progress.num_bad_validations, ending) == (perfect, 2, "done")


def test_validations_that_do_not_improve_are_counted(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    stage, perfect = parts.enter(0), Best(1, 1, "accuracy", 1.0, {"accuracy": 1.0})
    progress = validate(parts.job, stage, Progress(3, perfect, num_bad_validations=1), parts.log)
    assert (progress.best, progress.num_bad_validations, progress.validated_step) == (perfect, 2, 3)
    assert progress.last_valid is not None
    assert progress.last_valid["num_images"] == 9
    progress = validate(parts.job, stage, replace(progress, best=replace(perfect, value=-1.0)), parts.log)
    assert (progress.best is not None and progress.best.step, progress.num_bad_validations) == (3, 0)


def test_without_a_valid_split_the_newest_weights_are_the_best(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    job = replace(parts.job, plan=replace(parts.job.plan, num_eval={}))
    progress = validate(job, parts.enter(0), Progress(3, best_at(1)), parts.log)
    assert progress == Progress(3, Best(3, 1, "step", 3.0, {}), validated_step=3)
