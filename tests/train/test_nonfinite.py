"""Losses that are no number: named, and left out where the recipe says so, without a trace in the weights."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from launcher.train.context import Training
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.errors import UserError
from launcher.train.nonfinite import MAX_IN_A_ROW, SkipNonfinite
from launcher.train.step_result import StepResult
from tests.harness.runs import events, summary, train_records
from tests.harness.workdir import LENET, WorkDir

WORDS = [LENET, "backbone.freeze=none", "checkpoint.every=1st", "checkpoint.keep=10"]


def spoil(workdir: WorkDir, *steps: int) -> None:
    """The training loss of these steps is no number: the calls of a loss that are not in evaluation are counted."""
    whole, count = F.cross_entropy, 0

    def spoiled(outputs_BO: Tensor, *words: Any, **more: Any) -> Tensor:
        nonlocal count
        losses_B = whole(outputs_BO, *words, **more)
        if not torch.is_grad_enabled():
            return losses_B
        count += 1
        return losses_B * torch.nan if count in steps else losses_B

    workdir.patch.setattr(F, "cross_entropy", spoiled)


def weights(workdir: WorkDir, step: int) -> dict[str, Tensor]:
    return load_file(workdir.path / "run/checkpoints" / f"step-{step:08d}/model.safetensors")


def test_step_and_samples_are_named(workdir: WorkDir) -> None:
    spoil(workdir, 3)
    with pytest.raises(
        UserError, match=r"^loss is nan at step 3, epoch 1, on rank 0 \(samples \d+, .* and 4 more\): "
    ) as error:
        workdir.train(*WORDS, "log.every=50st")
    assert "train.on_nonfinite=skip" in str(error.value)
    assert "step-00000003" not in [path.name for path in (workdir.path / "run/checkpoints").iterdir()]


def test_a_step_may_be_left_out(workdir: WorkDir) -> None:
    spoil(workdir, 3)
    assert workdir.train(*WORDS, "train.on_nonfinite=skip") == 0
    [event] = events(workdir.path / "run", "nonfinite")
    assert event["step"] == 3
    assert event["message"].startswith("step 3 left out: its loss is no number on rank 0 (samples ")
    before, after, next_ = (weights(workdir, step) for step in (2, 3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(after[name], next_[name]) for name in before)
    losses = [record["loss"] for step, record in train_records(workdir.path / "run").items() if step != 3]
    assert all(loss == loss for loss in losses)
    assert summary(workdir.path / "run")["status"] == "done"


def test_nothing_else_changes_where_all_losses_are_numbers(workdir: WorkDir) -> None:
    workdir.train(*WORDS, "run.dir=plain")
    workdir.train(*WORDS, "run.dir=skip", "train.on_nonfinite=skip")
    assert workdir.losses("skip") == workdir.losses("plain")


def test_too_many_in_a_row_end_the_run(workdir: WorkDir) -> None:
    spoil(workdir, *range(2, 100))
    with pytest.raises(UserError, match=f"{MAX_IN_A_ROW} in a row: lower optim.lr"):
        workdir.train(*WORDS, "train.epochs=20", "train.on_nonfinite=skip")


class Alone:
    """Of a strategy, what a guard asks."""

    device = torch.device("cpu")
    scaler_state = None

    def sum(self, tensor: Tensor) -> Tensor:
        return tensor

    def gather(self, value: object) -> list[object]:
        return [value]


def training_of(model: nn.Module) -> Training:
    """As much of one as a guard asks."""
    t = SimpleNamespace(
        network=SimpleNamespace(model=model),
        strategy=Alone(),
        journal=SimpleNamespace(write=lambda *words, **more: None),
        console=SimpleNamespace(say=lambda text: None),
        plan=SimpleNamespace(epoch=lambda step: 0),
    )
    return cast(Training, t)


def test_what_batchnorm_remembers_is_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    t = training_of(model)
    guard = SkipNonfinite(t)
    for value, is_left_out in ((1.0, False), (torch.nan, True), (2.0, False), (torch.inf, True)):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        guard.remember()
        loss = model(torch.randn(4, 2) * value).square().mean()
        loss.backward()
        assert guard.should_skip_step(StepResult(1, loss.detach(), [torch.arange(4).numpy()], [])) == is_left_out
        model.zero_grad()
        for name, buffer in model.named_buffers():
            assert bool(buffer.isfinite().all())
            if "running" in name:
                assert torch.equal(buffer, before[name]) == is_left_out


def test_gradients_alone_may_be_no_number() -> None:
    model = nn.Linear(2, 1)
    t = training_of(model)
    model.weight.grad = torch.tensor([[1.0, torch.inf]])
    done = StepResult(1, torch.tensor(1.0), [torch.arange(4).numpy()], [])
    assert SkipNonfinite(t).should_skip_step(done)


def test_a_loss_that_is_no_number_is_not_saved_at_the_end_of_a_stage_either(workdir: WorkDir) -> None:
    """Nothing else is due there."""
    spoil(workdir, 3)
    stages = "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 3st, freeze: none}]}"
    words = [LENET, stages, "log.every=50st", "strategy.feature_cache_gib=0"]
    with pytest.raises(UserError, match=r"^loss is nan at step 3,"):
        workdir.train(*words)
    assert list((workdir.path / "run/checkpoints").glob("step-*")) == []
