"""The train record of some steps: their mean loss, learning rate and speed, and where asked for the samples."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from launcher.augment.parameter_hash import ParamHashes
from launcher.data.ids import Ids
from launcher.distributed.comm import Comm
from launcher.errors import UserError
from launcher.metrics.names import Metrics
from launcher.models.optim.schedule import learning_rate
from launcher.run.run_log import RunLog
from launcher.train.job import Job
from launcher.train.nonfinite import ADVICE, find_first_bad
from launcher.train.step_result import StepResult
from launcher.train.timing import StepTimer


def log_steps(job: Job, timer: StepTimer, log: RunLog, results: Sequence[StepResult]) -> None:
    """Called by every rank, with the results since the last record. Raise UserError when the loss is not finite."""
    recipe, plan, step, comm = job.recipe, job.plan, results[-1].step, job.strategy.comm
    may_skip = recipe.train.on_nonfinite == "skip"
    loss = _mean_loss(comm, results, may_skip)
    metrics: Metrics = {"loss": loss, "lr": learning_rate(recipe, plan, step), **timer.lap()}
    samples = _samples(comm, results[-1].ids, results[-1].param_hashes) if recipe.log.samples else {}
    log.train(step, metrics, show=plan.should_log(step), **samples)
    if not math.isfinite(loss) and not may_skip:
        where = find_first_bad(job.strategy, plan, results)
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
