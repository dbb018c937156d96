"""One optimizer step: augmented batches, forward, backward, exchange, step. B batch, O outputs of the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from launcher.augment.parameter_hash import ParamHashes
from launcher.data.feed import Examples
from launcher.data.ids import Ids
from launcher.models.optim.schedule import learning_rate
from launcher.run.run_log import RunLog
from launcher.train.job import Job
from launcher.train.nonfinite import NonfinitePolicy
from launcher.train.stage import Stage
from launcher.train.step_log import StepResult


def train_work(job: Job, steps: range) -> Iterator[tuple[int, Ids]]:
    """Epoch and ids of every micro batch of this rank."""
    for step in steps:
        for ids_B in job.order.micro_batch_ids(step, job.strategy.world.rank):
            yield job.plan.epoch(step), ids_B


def train_step(
    job: Job, stage: Stage, batches: Iterator[Examples], step: int, nonfinite: NonfinitePolicy, log: RunLog
) -> StepResult:
    """One optimizer step of every rank. Raise UserError when too many steps in a row were skipped."""
    plan, strategy, beacon, state = job.plan, job.strategy, job.strategy.comm.beacon, stage.state
    lr = learning_rate(job.recipe, plan, step)
    for group in state.optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
    may_skip_samples = job.recipe.data.on_error == "skip"
    losses: list[Tensor] = []
    ids: list[Ids] = []
    param_hashes: list[ParamHashes] = []
    nonfinite.before_step()
    for i in range(plan.accumulation):
        beacon.enter("data", step)
        examples = next(batches)
        with strategy.sync_gradients(now=i == plan.accumulation - 1):
            beacon.enter("forward")
            outputs_BO = stage.train_model(*examples.inputs)  # autocast, too
            losses_B = stage.loss(outputs_BO, examples.targets)
            if may_skip_samples:
                losses_B = losses_B * examples.weights_B
            loss = losses_B.mean()
            beacon.enter("backward")
            strategy.backward(loss / plan.accumulation if plan.accumulation > 1 else loss)
        losses.append(_mean_of_counted(losses_B.detach(), examples) if may_skip_samples else loss.detach())
        ids.append(examples.ids_B)
        param_hashes.append(examples.param_hashes_BD)
    result = StepResult(step, torch.stack(losses).mean() if len(losses) > 1 else losses[0], ids, param_hashes)
    if nonfinite.should_skip_step(result):
        state.optimizer.zero_grad()
        return replace(result, is_skipped=True)
    if not strategy.step(state.optimizer, job.recipe.optim.clip_norm, state.model.parameters()):
        log.event(step, "overflow", "fp16 overflow: skipped the optimizer step")
    elif state.ema is not None:
        state.ema.update()
    return result


def _mean_of_counted(losses_B: Tensor, examples: Examples) -> Tensor:
    """The loss to log; the gradient's mean is over all, so that each image counts the same in every batch."""
    return losses_B.sum() / examples.weights_B.sum().clamp(min=1)
