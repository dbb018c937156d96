"""What is written down of steps: figures for journal and console, and where asked for the samples."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import numpy as np
import torch

from launcher.augment.parameter_hash import Hashes
from launcher.data.order import Ids
from launcher.errors import UserError
from launcher.metrics.counts import Figures
from launcher.train.context import Training
from launcher.train.nonfinite import ADVICE, find_first_bad
from launcher.train.step import learning_rate
from launcher.train.step_result import StepResult


def record_steps(t: Training, since: list[StepResult]) -> None:
    """Journal and console: the mean loss, over all ranks, of the steps since the last record.

    Raise UserError when it is no number.
    """
    step, epoch = since[-1].step, t.plan.epoch(since[-1].step) + 1
    losses_S = torch.stack([result.loss for result in since])
    may_miss = t.recipe.train.on_nonfinite == "skip"
    counted_S = losses_S[torch.tensor([result.is_taken for result in since])] if may_miss else losses_S
    total, number = t.strategy.sum(torch.stack([counted_S.sum(), losses_S.new_tensor(len(counted_S))])).tolist()
    loss = total / number if number else math.nan
    figures: Figures = {"loss": loss, "lr": learning_rate(t, step), **t.watch.lap()}
    samples = _samples(t, since[-1].ids, since[-1].drawn) if t.recipe.log.samples else {}
    t.journal.write("train", step, epoch, **figures, **samples)
    if t.plan.is_record(step):
        t.console.train(step, epoch, figures)
    for failure in t.wandb.take_failures():
        t.journal.write("event", step, epoch, name="wandb_failed", message=failure)
        t.console.say(failure)
    if not math.isfinite(loss) and not may_miss:
        where = find_first_bad(t, since)
        raise UserError(f"loss is {loss} {where}: {ADVICE}; train.on_nonfinite=skip leaves such steps out")


def _samples(t: Training, ids: list[Ids], drawn: list[Hashes]) -> dict[str, Any]:
    """Ids of a step's samples over all ranks, and one hash of what augmentation and mixing did to them, in that order.

    Where features were read, nothing was done to an image in this step, and there is no hash.
    """
    ids_G = np.concatenate(t.strategy.gather(np.concatenate(ids)))
    hashes = np.concatenate(t.strategy.gather(np.concatenate(drawn))).tobytes()
    augmentation = {"augmentation": hashlib.blake2b(hashes, digest_size=16).hexdigest()} if hashes else {}
    return {"samples": ids_G.tolist(), **augmentation}
