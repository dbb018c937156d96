"""Losses that are not finite: named, and skipped where the recipe says so, without a trace in the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.errors import UserError
from launcher.run.run_log import NullLog
from launcher.train.nonfinite import MAX_IN_A_ROW, SkipNonfinite
from launcher.train.step_log import StepResult
from tests.harness.runs import events, summary, train_records
from tests.harness.small_run import alone
from tests.harness.workdir import LENET, WorkDir

WORDS = [LENET, "backbone.freeze=none", "checkpoint.every=1st", "checkpoint.keep=10"]


def spoil(workdir: WorkDir, *steps: int) -> None:
    """The training loss of these steps is NaN: the calls of a loss that are not in evaluation are counted."""
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


def test_a_step_may_be_skipped(workdir: WorkDir) -> None:
    spoil(workdir, 3)
    assert workdir.train(*WORDS, "train.on_nonfinite=skip") == 0
    [event] = events(workdir.path / "run", "step_skipped")
    assert event["step"] == 3
    assert event["message"].startswith("skipped step 3: its loss is not finite on rank 0 (samples ")
    before, after, next_ = (weights(workdir, step) for step in (2, 3, 4))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not all(torch.equal(after[name], next_[name]) for name in before)
    losses = [record["loss"] for step, record in train_records(workdir.path / "run").items() if step != 3]
    assert all(loss == loss for loss in losses)
    assert summary(workdir.path / "run")["status"] == "done"


def test_skipping_changes_nothing_where_all_losses_are_finite(workdir: WorkDir) -> None:
    workdir.train(*WORDS, "run.dir=plain")
    workdir.train(*WORDS, "run.dir=skip", "train.on_nonfinite=skip")
    assert workdir.losses("skip") == workdir.losses("plain")


def test_too_many_in_a_row_end_the_run(workdir: WorkDir) -> None:
    spoil(workdir, *range(2, 100))
    with pytest.raises(UserError, match=f"{MAX_IN_A_ROW} in a row: lower optim.lr"):
        workdir.train(*WORDS, "train.epochs=20", "train.on_nonfinite=skip")


def test_statistics_of_batchnorm_are_put_back() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    policy = SkipNonfinite(model, alone(), NullLog())
    for value, is_skipped in ((1.0, False), (torch.nan, True), (2.0, False), (torch.inf, True)):
        before = {name: buffer.clone() for name, buffer in model.named_buffers()}
        policy.before_step()
        loss = model(torch.randn(4, 2) * value).square().mean()
        loss.backward()
        assert policy.should_skip_step(StepResult(1, loss.detach(), [torch.arange(4).numpy()], [])) == is_skipped
        model.zero_grad()
        for name, buffer in model.named_buffers():
            assert bool(buffer.isfinite().all())
            if "running" in name:
                assert torch.equal(buffer, before[name]) == is_skipped


def test_gradients_alone_may_be_infinite() -> None:
    model = nn.Linear(2, 1)
    model.weight.grad = torch.tensor([[1.0, torch.inf]])
    done = StepResult(1, torch.tensor(1.0), [torch.arange(4).numpy()], [])
    assert SkipNonfinite(model, alone(), NullLog()).should_skip_step(done)


def test_a_loss_that_is_not_finite_is_not_saved_at_the_end_of_a_stage_either(workdir: WorkDir) -> None:
    """Nothing else is due there."""
    spoil(workdir, 3)
    stages = "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 3st, freeze: none}]}"
    words = [LENET, stages, "log.every=50st", "strategy.feature_cache_gib=0"]
    with pytest.raises(UserError, match=r"^loss is nan at step 3,"):
        workdir.train(*words)
    assert list((workdir.path / "run/checkpoints").glob("step-*")) == []


class UnreadScaler:
    """Of fp16, on a GPU: to read it would wait for the step."""

    def state_dict(self) -> dict[str, float]:
        raise AssertionError("read")


@pytest.mark.parametrize(("scaler", "is_skipped"), [(None, True), (UnreadScaler(), False)])
def test_overflows_of_scaled_gradients_are_left_to_the_scaler(scaler: UnreadScaler | None, is_skipped: bool) -> None:
    strategy, model = alone(), nn.Linear(1, 1)
    strategy._accelerator.scaler = scaler
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, torch.inf)
    policy = SkipNonfinite(model, strategy, NullLog())
    assert policy.should_skip_step(StepResult(1, torch.tensor(1.0), [], [])) == is_skipped
