"""The training loop: steps, records, validations, saves. Every rank runs the same steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from launcher.checkpoint.restore import Best, Progress
from launcher.distributed.signals import StopRequest
from launcher.errors import Stopped
from launcher.metrics.counts import Counts, Figures, is_better
from launcher.models.frozen.freeze import frozen_sha256, set_training
from launcher.train.context import Training
from launcher.train.evaluate import evaluate
from launcher.train.input_cost import judge_input
from launcher.train.nonfinite import build_guard
from launcher.train.skipped_samples import record_left_out
from launcher.train.stage import Learner, enter_stage
from launcher.train.step import train_step, train_work
from launcher.train.step_log import record_steps
from launcher.train.step_result import StepResult

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
        t.strategy.pulse.enter("save")
        progress = t.saver.settle(progress, is_last=status != "done" or progress.step == t.plan.total_steps)
        if status != "done":
            return learner, progress, status
    for stage, steps in t.plan.steps_by_stage(progress.step + 1):
        if stage != learner.stage:
            check_frozen(t, learner)
            learner = enter_stage(t, stage, progress.step, stop.is_wanted)
        progress, status = _fit_stage(t, learner, steps, progress, stop)
        t.strategy.pulse.enter("save")
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
    batches, guard = learner.feeds["train"].batches(train_work(t, steps)), build_guard(t)
    since: list[StepResult] = []
    set_training(t.network.model)
    t.watch.resume()
    for step in steps:
        since.append(train_step(t, learner, batches, step, guard))
        progress = replace(progress, step=step)
        is_asked, is_end = t.strategy.any_process(stop.is_wanted()), step == steps[-1]
        # Before anything is judged or saved: a loss that is no number ends the run here.
        is_due = any(due(step) for due in (plan.is_record, plan.is_evaluation, plan.is_checkpoint))
        if is_due or is_asked or is_end or t.recipe.log.samples:
            record_steps(t, since)
            since = []
        t.watch.pause()
        if step % plan.steps_per_epoch == 0 and step < plan.total_steps:
            judge_input(t, learner, step)
            record_left_out(t, step)
        # Entering the next stage may be asked to stop, and then loses nothing.
        progress, status = _end_step(t, learner, progress, stop, is_asked, is_end)
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
        t.strategy.pulse.enter("save")
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
        should_stop=stop.is_wanted,
        can_leave_out=t.recipe.data.on_error == "skip",
    )
    figures = counts.figures(t.classes)
    epoch = t.plan.epoch(step) + 1
    t.journal.write("eval", step, epoch, split=split, weights_step=weights_step, **figures)
    return counts, figures
