"""The result of each step, and the train record of some: mean loss, learning rate, speed, and samples if asked for."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from launcher.augment.parameter_hash import ParamHashes
from launcher.data.ids import Ids
from launcher.distributed.comm import Comm
from launcher.errors import UserError
from launcher.metrics.names import Metrics
from launcher.models.optim.schedule import learning_rate
from launcher.recipe.plan import Plan
from launcher.run.run_log import RunLog
from launcher.train.job import Job
from launcher.train.timing import StepTimer

NUM_NAMED = 8
"""Samples that a message names."""
ADVICE = "lower optim.lr, or add schedule.warmup or optim.clip_norm, with --allow-change or --fresh"


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step of this rank. `loss`: the mean over its images, not waited for."""

    step: int
    loss: Tensor
    ids: list[Ids]
    """The sample ids of each micro batch."""
    param_hashes: list[ParamHashes]
    """For each micro batch a hash of the augmentation and mixing of each image."""
    is_skipped: bool = False
    """True where the optimizer did not step, on every rank."""

    @property
    def samples(self) -> str:
        """`samples 3, 17, 4 and 29 more`."""
        ids = np.concatenate(self.ids).tolist()
        more = f" and {len(ids) - NUM_NAMED} more" if len(ids) > NUM_NAMED else ""
        return f"samples {', '.join(map(str, ids[:NUM_NAMED]))}{more}"


def log_steps(job: Job, timer: StepTimer, log: RunLog, results: Sequence[StepResult]) -> None:
    """Called by every rank, with the results since the last record. Raise UserError when the loss is not finite."""
    recipe, plan, step, comm = job.recipe, job.plan, results[-1].step, job.strategy.comm
    may_skip = recipe.train.on_nonfinite == "skip"
    loss = _mean_loss(comm, results, may_skip)
    metrics: Metrics = {"loss": loss, "lr": learning_rate(recipe, plan, step), **timer.lap()}
    samples = _samples(comm, results[-1].ids, results[-1].param_hashes) if recipe.log.samples else {}
    log.train(step, metrics, show=plan.should_log(step), **samples)
    if not math.isfinite(loss) and not may_skip:
        where = _find_first_bad(comm, plan, results)
        raise UserError(f"loss is {loss} {where}: {ADVICE}; train.on_nonfinite=skip skips such steps")


def _mean_loss(comm: Comm, results: Sequence[StepResult], may_skip: bool) -> float:
    """Over all ranks, without skipped steps; NaN when all were."""
    losses_S = torch.stack([result.loss for result in results])
    counted_S = losses_S[torch.tensor([not result.is_skipped for result in results])] if may_skip else losses_S
    total, number = comm.sum(torch.stack([counted_S.sum(), losses_S.new_tensor(len(counted_S))])).tolist()
    return total / number if number else math.nan


def _samples(comm: Comm, ids: list[Ids], param_hashes: list[ParamHashes]) -> dict[str, Any]:
    """Ids of a step's samples over all ranks, and one hash of what augmentation and mixing did to them, in that order.

    Where features were read, nothing was done to an image in this step, and there is no hash.
    """
    ids_G = np.concatenate(comm.all_gather_object(np.concatenate(ids)))
    hashes = np.concatenate(comm.all_gather_object(np.concatenate(param_hashes))).tobytes()
    augmentation = {"augmentation": hashlib.blake2b(hashes, digest_size=16).hexdigest()} if hashes else {}
    return {"samples": ids_G.tolist(), **augmentation}


def _find_first_bad(comm: Comm, plan: Plan, results: Sequence[StepResult]) -> str:
    """`at step 812, epoch 3, on rank 3 (samples 3, 17)`. Called by every rank."""
    mine = next((result for result in results if not bool(torch.isfinite(result.loss))), None)
    first = min(comm.all_gather_object(math.inf if mine is None else mine.step))
    where = describe_ranks(comm, mine or results[-1], is_mine=mine is not None and mine.step == first)
    return f"at step {first}, epoch {plan.epoch(int(first)) + 1}, {where}"


def describe_ranks(comm: Comm, result: StepResult, is_mine: bool) -> str:
    """`on rank 3 (samples 3, 17)`: the first rank whose `is_mine` is true. Called by every rank."""
    ranks = comm.all_gather_object(result.samples if is_mine else None)
    return next((f"on rank {rank} ({samples})" for rank, samples in enumerate(ranks) if samples is not None), "")
