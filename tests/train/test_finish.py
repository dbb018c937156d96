"""How a run ends, without a training before it."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from launcher.checkpoint.saver import Saver
from launcher.checkpoint.state import Best, Progress
from launcher.errors import EXIT_DONE, EXIT_RESUMABLE, Stopped, UserError
from launcher.train.finish import fail, finish
from tests.harness.recorded_log import RecordedLog
from tests.harness.workdir import LENET, Parts, WorkDir


def saver_of(parts: Parts, log: RecordedLog) -> Saver:
    return Saver(parts.job.run.checkpoints, parts.job.recipe.checkpoint, parts.state, log)


def saved(parts: Parts, log: RecordedLog, progress: Progress) -> Saver:
    saver = saver_of(parts, log)
    saver.save(progress)
    saver.wait(progress, is_last=True)
    return saver


def summary_of(parts: Parts) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((parts.job.run.path / "summary.json").read_text())
    return found


def test_the_best_weights_are_evaluated_not_the_last(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET), RecordedLog()
    stage = parts.enter(0)
    valid = {"accuracy": 0.5, "loss": 1.0, "num_images": 9, "per_class": {}}
    progress = Progress(3, Best(3, 1, "accuracy", 0.5, valid))
    saved(parts, log, progress)
    best = {name: tensor.clone() for name, tensor in parts.state.model.state_dict().items()}
    with torch.no_grad():
        parts.state.model.get_parameter("fc3.weight").mul_(-9)
    assert finish(parts.job, stage, replace(progress, step=6), "done", log) == EXIT_DONE
    assert all(torch.equal(best[name], tensor) for name, tensor in parts.state.model.state_dict().items())
    [evaluation] = [record for record in log.records if record["kind"] == "eval"]
    assert (evaluation["split"], evaluation["num_images"]) == ("test", 9)
    assert sum(map(sum, log.events("confusion")[0]["rows"])) == 9
    assert summary_of(parts)["test"]["accuracy"] == evaluation["accuracy"]
    assert log.records[-1]["name"] == "done"


def test_a_preempted_run_evaluates_nothing_and_says_how_to_resume(workdir: WorkDir) -> None:
    parts, log = workdir.build(LENET), RecordedLog()
    assert finish(parts.job, parts.enter(0), Progress(1234), "preempted", log) == EXIT_RESUMABLE
    assert [record for record in log.records if record["kind"] == "eval"] == []
    assert summary_of(parts)["status"] == "preempted"
    assert log.shown[-1] == "stopped as asked; the same command resumes at step 1,234"


@pytest.mark.parametrize(
    ("error", "status", "exit_code"),
    [
        (UserError("no room"), "failed", 1),
        (Stopped("asked"), "preempted", EXIT_RESUMABLE),
        (ValueError("x"), "failed", 1),
    ],
)
def test_an_error_is_written_down(workdir: WorkDir, error: BaseException, status: str, exit_code: int) -> None:
    parts, log = workdir.build(LENET), RecordedLog()
    fail(parts.job, parts.inputs, saved(parts, log, Progress(3)), log, error)
    assert log.events("error")[0]["message"] == f"{type(error).__name__}: {error}"
    assert (log.records[-1]["name"], log.records[-1]["exit_code"]) == (status, exit_code)
    assert (summary_of(parts)["status"], summary_of(parts)["steps_done"]) == (status, 3)


class FullDisk(RecordedLog):
    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_does_not_hide_the_first_error(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    fail(parts.job, parts.inputs, saver_of(parts, RecordedLog()), FullDisk(), UserError("first"))
    assert "could not be written down" in (parts.job.run.logs / "rank-0.log").read_text()
