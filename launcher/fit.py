"""The training loop. One step: read, augment, forward, backward, exchange, step. Every rank runs the same steps.

B batch, O outputs of the network.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from launcher.augment.witness import Hashes
from launcher.checkpoint import Best, Progress
from launcher.data.loader import count_workers
from launcher.data.order import Ids
from launcher.errors import Stopped, UserError
from launcher.evaluate import evaluate
from launcher.feed import Examples, ImageFeed
from launcher.learner import Learner, enter_stage
from launcher.log.pictures import write_grid
from launcher.metrics import Counts, Figures, is_better
from launcher.models.freeze import frozen_sha256, set_training
from launcher.optim.schedule import lr_factor
from launcher.recipe.augment import RANDOM_OPS
from launcher.recipe.contradictions import final_size
from launcher.recipe.schema import Data, Recipe
from launcher.stop import StopRequest
from launcher.training import Training
from launcher.verdict import Cost, Setting, Verdict, judge

Status = Literal["done", "stopped", "preempted"]


def fit(t: Training, learner: Learner, progress: Progress, stop: StopRequest) -> tuple[Learner, Progress, Status]:
    """Train from `progress` to the end of the plan, to the end of patience, or until asked to stop.

    `learner`: of the stage that `progress` is in; what comes back is of the last stage that was reached.
    Raise UserError when the loss is no longer a number, RunError when saves fail.
    """
    patience = t.recipe.train.patience
    if patience is not None and progress.stale >= patience:
        return learner, progress, "stopped"
    if not progress.is_judged:
        progress, status = _end_step(t, learner, progress, stop, is_asked=False, is_end=True)
        progress = t.saver.settle(progress, is_last=status != "done" or progress.step == t.plan.total_steps)
        if status != "done":
            return learner, progress, status
    for stage, steps in t.plan.steps_by_stage(progress.step + 1):
        if stage != learner.stage:
            check_frozen(t, learner)
            learner = enter_stage(t, stage, progress.step, lambda: stop.wanted is not None)
        progress, status = _fit_stage(t, learner, steps, progress, stop)
        progress = t.saver.settle(progress, is_last=status != "done" or progress.step == t.plan.total_steps)
        if status != "done":
            return learner, progress, status
    return learner, progress, "done"


def check_frozen(t: Training, learner: Learner) -> None:
    """Raise AssertionError on every process when a frozen tensor is not what it was as the stage began."""
    if any(t.strategy.gather(learner.frozen_sha256 != frozen_sha256(t.network.model))):
        raise AssertionError("a frozen tensor has changed")


def _fit_stage(
    t: Training, learner: Learner, steps: range, progress: Progress, stop: StopRequest
) -> tuple[Progress, Status]:
    """Train `steps`, in which the same part of the network learns."""
    plan = t.plan
    batches = learner.feeds["train"].batches(train_work(t, steps))
    loss_sum, summed_steps = torch.zeros((), device=t.strategy.device), 0
    set_training(t.network.model)
    t.watch.resume()
    for step in steps:
        loss, ids, drawn = train_step(t, learner, batches, step)
        loss_sum += loss
        summed_steps += 1
        progress = replace(progress, step=step)
        is_asked = t.strategy.any_process(stop.wanted is not None)
        # Before anything is judged or saved: a loss that is no number ends the run here.
        is_due = any(due(step) for due in (plan.is_record, plan.is_evaluation, plan.is_checkpoint))
        if is_due or is_asked or t.recipe.log.samples:
            _record(t, step, loss_sum / summed_steps, ids, drawn)
            loss_sum, summed_steps = torch.zeros_like(loss_sum), 0
        t.watch.pause()
        if step % plan.steps_per_epoch == 0 and step < plan.total_steps:
            judge_input(t, learner, step)
        # Entering the next stage may be asked to stop, and then loses nothing.
        progress, status = _end_step(t, learner, progress, stop, is_asked, is_end=step == steps[-1])
        if status != "done":
            return progress, status
        t.watch.resume()
    return progress, "done"


def _end_step(
    t: Training, learner: Learner, progress: Progress, stop: StopRequest, is_asked: bool, is_end: bool
) -> tuple[Progress, Status]:
    """Judge and save after a step, where that is due.

    `is_asked`: to stop, agreed by all processes, which may also happen in the middle of the validation.
    `is_end`: saved in any case.
    """
    plan, step, patience = t.plan, progress.step, t.recipe.train.patience
    is_save = plan.is_checkpoint(step) or is_asked or is_end
    if is_save or plan.is_evaluation(step):
        progress = t.saver.settle(progress)
    if plan.is_evaluation(step):
        progress = replace(progress, is_judged=False) if is_asked else _judge(t, learner, progress, stop)
        is_asked = not progress.is_judged
    is_tired = patience is not None and progress.stale >= patience
    is_best = progress.best is not None and progress.best.step == step
    if is_save or is_best or is_tired or is_asked:
        t.strategy.pulse.enter("save")
        t.saver.save(progress)
    t.saver.poll(step)
    return progress, "preempted" if is_asked else "stopped" if is_tired else "done"


def train_work(t: Training, steps: range) -> Iterator[tuple[int, Ids]]:
    """Epoch and ids of every micro batch of this process."""
    for step in steps:
        for ids_B in t.order.micro_batch_ids(step, t.strategy.world.rank):
            yield t.plan.epoch(step), ids_B


def train_step(
    t: Training, learner: Learner, batches: Iterator[Examples], step: int
) -> tuple[Tensor, list[Ids], list[Hashes]]:
    """One optimizer step: this rank's mean loss over its images, their ids, and a hash of what was done to each."""
    plan, epoch = t.plan, t.plan.epoch(step)
    for group in t.optimizer.param_groups:
        group["lr"] = _lr(t, step) * group["lr_scale"]
    losses: list[Tensor] = []
    ids: list[Ids] = []
    drawn: list[Hashes] = []
    feed = learner.feeds["train"]
    before = replace(feed.times)
    pulse, can_leave_out = t.strategy.pulse, t.recipe.data.on_error == "skip"
    for i in range(plan.accumulation):
        pulse.at = ("data", step, False)
        examples = next(batches)
        if step == 1 and i == 0 and t.strategy.world.is_first and examples.images_BCHW is not None:
            picture = t.run.pictures / "augmented.png"
            write_grid(examples.images_BCHW, t.augment_train.mean, t.augment_train.std, picture)
            t.journal.write("event", step, epoch + 1, name="picture", picture=picture.stem)
        with t.strategy.exchange_gradients(now=i == plan.accumulation - 1):
            pulse.at = ("forward", step, False)
            outputs_BO = learner.wrapped(*examples.inputs)
            losses_B = t.loss_train(outputs_BO, examples.targets)
            loss = (losses_B * examples.weights_B).mean() if can_leave_out else losses_B.mean()
            pulse.at = ("backward", step, False)
            t.strategy.backward(loss / plan.accumulation if plan.accumulation > 1 else loss)
        losses.append(loss.detach())
        ids.append(examples.ids_B)
        drawn.append(examples.drawn_BD)
    stepped = t.strategy.step(t.optimizer, t.recipe.optim.clip_norm, t.network.model.parameters())
    if not stepped:
        t.journal.write("event", step, epoch + 1, name="overflow", message="fp16 overflow: optimizer step left out")
    elif t.ema is not None:
        t.ema.update_parameters(t.network.model)
    t.watch.images += plan.global_batch
    cost = feed.times.since(before)
    t.watch.wait_s += cost.wait_s
    t.costs.add(cost)
    return torch.stack(losses).mean() if len(losses) > 1 else losses[0], ids, drawn


def _lr(t: Training, step: int) -> float:
    """The head's learning rate; those of other parts are in proportion."""
    return t.recipe.optim.lr * lr_factor(t.recipe.schedule, t.plan, step)


def _record(t: Training, step: int, rank_loss: Tensor, ids: list[Ids], drawn: list[Hashes]) -> None:
    """Journal, console and W&B: the mean loss, over all ranks, of the steps since the last record."""
    loss = t.strategy.sum(rank_loss).item() / t.strategy.world.size
    epoch = t.plan.epoch(step) + 1
    figures: Figures = {"loss": loss, "lr": _lr(t, step), **t.watch.lap()}
    samples = _samples(t, ids, drawn) if t.recipe.log.samples else {}
    t.journal.write("train", step, epoch, **figures, **samples)
    if t.plan.is_record(step):
        t.console.train(step, epoch, figures)
    for failure in t.wandb.take_failures():
        t.journal.write("event", step, epoch, name="wandb_failed", message=failure)
        t.console.say(failure)
    if not math.isfinite(loss):
        raise UserError(
            f"loss is {loss} at step {step}, epoch {epoch}: lower optim.lr, or add schedule.warmup or optim.clip_norm"
        )


def _samples(t: Training, ids: list[Ids], drawn: list[Hashes]) -> dict[str, Any]:
    """Ids of a step's samples over all ranks, and one hash of what augmentation and mixing did to them, in that order.

    Where features were read, nothing was done to an image in this step, and there is no hash.
    """
    ids_G = np.concatenate(t.strategy.gather(np.concatenate(ids)))
    hashes = np.concatenate(t.strategy.gather(np.concatenate(drawn))).tobytes()
    augmentation = {"augmentation": hashlib.blake2b(hashes, digest_size=16).hexdigest()} if hashes else {}
    return {"samples": ids_G.tolist(), **augmentation}


def _judge(t: Training, learner: Learner, progress: Progress, stop: StopRequest) -> Progress:
    """Validate, and remember whether this is the best so far. Without a valid split the newest step is the best.

    Asked to stop before that is over, leave the progress not judged.
    """
    step, epoch, metric = progress.step, t.plan.epoch(progress.step) + 1, t.recipe.train.best_metric
    progress = replace(progress, is_judged=True)
    if "valid" not in t.plan.num_eval:
        return replace(progress, best=Best(step, epoch, "step", float(step), {}))
    try:
        _, figures = evaluate_and_record(t, learner, "valid", step, step, stop)
    except Stopped:
        return replace(progress, is_judged=False)
    set_training(t.network.model)
    improved = is_better(metric, figures, progress.best.value if progress.best is not None else None)
    best = Best(step, epoch, metric, figures[metric], figures) if improved else progress.best
    t.console.evaluation("valid", epoch, figures, improved)
    return replace(progress, best=best, stale=0 if improved else progress.stale + 1, last_valid=figures)


def evaluate_and_record(
    t: Training, learner: Learner, split: str, step: int, weights_step: int, stop: StopRequest
) -> tuple[Counts, Figures]:
    """Evaluate the weights of step `weights_step` on a split, now that `step` steps are done, and write it down.

    Raise Stopped when asked to stop before that is over.
    """
    counts = evaluate(
        learner.judged,
        split,
        learner.feeds[split],
        t.loss_eval,
        t.plan,
        t.strategy,
        should_stop=lambda: stop.wanted is not None,
        can_leave_out=t.recipe.data.on_error == "skip",
    )
    figures = counts.figures(t.classes)
    epoch = t.plan.epoch(step) + 1
    t.journal.write("eval", step, epoch, split=split, weights_step=weights_step, **figures)
    return counts, figures


def judge_input(t: Training, learner: Learner, step: int) -> Verdict | None:
    """Whether the training has waited for its input since this process began; written down. Called by every process."""
    costs = t.strategy.gather(_cost(t))
    verdict = judge(costs, setting_of(t.recipe, learner, t.strategy.device.type), t.strategy.hosts)
    if verdict is not None:
        ranks = [{name: round(value, 3) for name, value in asdict(cost).items()} for cost in costs]
        t.journal.write("event", step, t.plan.epoch(step) + 1, name="input", **asdict(verdict), ranks=ranks)
    return verdict


def _cost(t: Training) -> Cost:
    costs, world = t.costs, t.strategy.world
    return Cost(
        train_s=t.watch.train_s,
        work_s=t.strategy.pace.work_s,
        steps=t.watch.images // t.plan.global_batch,
        wait_s=costs.wait_s,
        read_s=costs.read_s,
        decode_s=costs.decode_s,
        augment_s=costs.augment_s,
        copy_s=costs.copy_s,
        long_side=costs.long_sides / max(costs.num_images, 1),
        workers=count_workers(t.recipe.data.workers, world),
        num_cores=count_workers(None, world),
    )


def setting_of(recipe: Recipe, learner: Learner, device_type: str) -> Setting:
    """What could be done about a slow input."""
    feed, augment, size = learner.feeds["train"], recipe.augment, final_size(recipe.augment.train)
    is_decoded = isinstance(feed, ImageFeed) and feed.loader.is_decoded
    feature_keys = []
    if isinstance(feed, ImageFeed) and feed.engine is not None:
        if augment.views is None and any(op.op in RANDOM_OPS for op in augment.train):
            feature_keys.append("augment.views=4")
        if not recipe.strategy.feature_cache_gib:
            feature_keys.append("strategy.feature_cache_gib=20")
    return Setting(
        is_cpu=device_type == "cpu",
        final_side=None if size is None else max(size),
        cache_keys=_cache_keys(recipe.data, is_decoded),
        feature_keys=" ".join(feature_keys) or None,
    )


def _cache_keys(data: Data, is_decoded: bool) -> str | None:
    if is_decoded:
        return None
    return "data.cache=decoded" if data.cache == "none" else f"data.cache_gib above {data.cache_gib:g}"
