"""One optimizer step against plain torch."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from launcher.train.nonfinite import FailOnNonfinite
from launcher.train.stage import Stage
from launcher.train.step import train_step, train_work
from launcher.train.step_log import StepResult
from tests.harness.recorded_log import RecordedLog
from tests.harness.workdir import LENET, Parts, WorkDir

WORDS = (LENET, "backbone.freeze=none", "strategy.precision=no")


def take_step(parts: Parts, stage: Stage, step: int) -> StepResult:
    batches = stage.feeds["train"].batches(train_work(parts.job, range(step, step + 1)))
    return train_step(parts.job, stage, batches, step, FailOnNonfinite(), RecordedLog())


@pytest.mark.parametrize("micro_batch", [12, 4])
def test_a_step_is_that_of_plain_sgd_however_it_is_cut(workdir: WorkDir, micro_batch: int) -> None:
    parts = workdir.build(*WORDS, f"train.micro_batch={micro_batch}", "optim.clip_norm=0.5")
    stage, job = parts.enter(0), parts.job
    plain = copy.deepcopy(stage.state.model).train()
    optimizer = torch.optim.SGD(plain.parameters(), lr=job.recipe.optim.lr, momentum=0.9)
    for step in (1, 2):
        batches = list(stage.feeds["train"].batches(train_work(job, range(step, step + 1))))
        images_BCHW = torch.cat([each.inputs[0] for each in batches])
        labels_B = torch.cat([each.labels_B for each in batches])
        assert (len(batches), len(images_BCHW)) == (12 // micro_batch, 12)
        expected = F.cross_entropy(plain(images_BCHW), labels_B)
        optimizer.zero_grad()
        expected.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        result = take_step(parts, stage, step)
        assert (result.step, result.is_skipped) == (step, False)
        assert sum(map(len, result.ids)) == 12
        assert result.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    found = dict(stage.state.model.named_parameters())
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(found[name], parameter, rtol=1e-4, atol=1e-6)


def test_the_average_of_the_weights_follows_each_step(workdir: WorkDir) -> None:
    parts = workdir.build(*WORDS, "optim.ema_decay=0.5")
    stage = parts.enter(0)
    assert stage.state.ema is not None
    for step in (1, 2):
        before = [each.clone() for each in stage.state.ema.module.parameters()]
        take_step(parts, stage, step)
        weights = list(stage.state.model.parameters())
        for old, now, weight in zip(before, stage.state.ema.module.parameters(), weights, strict=True):
            torch.testing.assert_close(now, weight if step == 1 else 0.5 * (old + weight))


class SkipAll(FailOnNonfinite):
    def should_skip_step(self, result: StepResult) -> bool:
        return True


def test_a_skipped_step_leaves_weights_and_gradients_alone(workdir: WorkDir) -> None:
    parts = workdir.build(*WORDS)
    stage = parts.enter(0)
    before = [each.clone() for each in stage.state.model.parameters()]
    batches = stage.feeds["train"].batches(train_work(parts.job, range(1, 2)))
    result = train_step(parts.job, stage, batches, 1, SkipAll(), RecordedLog())
    assert result.is_skipped
    assert all(map(torch.equal, before, stage.state.model.parameters()))
    assert all(each.grad is None or not each.grad.any() for each in stage.state.model.parameters())


def test_work_is_every_micro_batch_of_this_rank(workdir: WorkDir) -> None:
    job = workdir.build(*WORDS, "train.micro_batch=4").job
    work = list(train_work(job, range(3, 5)))
    assert [(epoch, len(ids_B)) for epoch, ids_B in work] == [(0, 4)] * 3 + [(1, 4)] * 3
    ids = sorted(int(i) for epoch, ids_B in train_work(job, range(1, 4)) for i in ids_B)
    assert len(ids) == len(set(ids)) == 36
