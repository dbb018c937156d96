"""What a training is before its first step."""

from __future__ import annotations

import pytest
import torch

from launcher.errors import UserError
from launcher.models.optim.ema import MovingAverage
from launcher.run.run_log import Rank0Log
from tests.harness.runs import journal
from tests.harness.workdir import LENET, Parts, WorkDir


def weights_of(parts: Parts) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in parts.state.model.state_dict().items()}


def test_a_job_holds_what_never_changes(workdir: WorkDir) -> None:
    job = workdir.build(LENET).job
    assert job.recipe.run.dir == "run"
    assert (job.plan.num_train, dict(job.plan.num_eval)) == (42, {"valid": 9, "test": 9})
    assert job.classes == ("class_0", "class_1", "class_2")
    assert job.normalisation == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    assert job.run.state == "new"


def test_weights_depend_on_the_seed_alone(workdir: WorkDir) -> None:
    first, same, other = (
        weights_of(workdir.build(LENET, f"run.seed={seed}", f"run.dir={name}"))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["fc1.weight"], other["fc1.weight"])


def test_the_first_stage_of_freezing_is_in_force(workdir: WorkDir) -> None:
    state = workdir.build(LENET, "optim.ema_decay=0.9").state
    free = [name for name, each in state.model.named_parameters() if each.requires_grad]
    assert free == ["fc3.weight", "fc3.bias"]
    assert sum(len(group["params"]) for group in state.optimizer.param_groups) == 2
    assert isinstance(state.ema, MovingAverage)
    assert state.eval_model is state.ema.module


def test_the_journal_begins_with_the_log(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    assert isinstance(parts.log, Rank0Log)
    parts.log.event(3, "note", "hello")
    parts.log.close()
    [record] = journal(workdir.path / "run")
    assert (record["step"], record["epoch"], record["name"], record["message"]) == (3, 1, "note", "hello")


def test_a_run_is_one_process_at_a_time(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    with pytest.raises(UserError, match="run: "):
        workdir.build(LENET)
    parts.close()
    workdir.build(LENET).close()
