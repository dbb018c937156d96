"""The training loop: steps, records, validations, saves. Every rank runs the same steps."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from launcher.checkpoint.saver import Saver
from launcher.checkpoint.state import Best, Progress
from launcher.errors import Stopped
from launcher.metrics.names import is_better
from launcher.models.frozen.freeze import set_training
from launcher.recipe.plan import Due, Plan
from launcher.run.run_log import RunLog
from launcher.train.evaluate import evaluate_stage
from launcher.train.first_batch import draw_first
from launcher.train.input_report import report_input
from launcher.train.job import Job
from launcher.train.nonfinite import FailOnNonfinite, NonfinitePolicy, SkipNonfinite
from launcher.train.stage import Stage, check_frozen, enter_stage
from launcher.train.step import train_step, train_work
from launcher.train.step_log import StepResult, log_steps

Ending = Literal["done", "early_stopped", "preempted"]


def fit(job: Job, stage: Stage, progress: Progress, saver: Saver, log: RunLog) -> tuple[Stage, Progress, Ending]:
    """Train from `progress` until the plan is done, patience is over, or some rank is asked to stop.

    `stage`: the one that `progress` is in; the one returned is the last that was reached.
    Raise UserError when the loss is not finite, RunError when saves fail.
    """
    plan, patience = job.plan, job.recipe.train.patience
    progress = saver.wait(progress)  # no save is pending: it learns of the best that is on disk
    if is_validation_due(plan, progress):
        progress = validate(job, stage, progress, log)
        saver.save(progress)
    ending = why_end(plan, progress, should_stop=False, patience=patience)
    for number, steps in plan.steps_by_stage(progress.step + 1):
        if ending is not None:
            break
        progress = saver.wait(progress)  # the save of the stage before: a stop while the next is entered resumes there
        if number != stage.number:
            check_frozen(job, stage)
            stage = enter_stage(job, stage.state, stage.inputs, number, progress.step, log)
        progress, ending = _fit_stage(job, stage, steps, progress, saver, log)
    return stage, saver.wait(progress, is_last=True), ending or "done"


def _fit_stage(
    job: Job, stage: Stage, steps: range, progress: Progress, saver: Saver, log: RunLog
) -> tuple[Progress, Ending | None]:
    """Train `steps`, in which the same part of the network learns. The ending is None when others may follow."""
    plan, comm, timer, feed = job.plan, job.strategy.comm, stage.inputs.timer, stage.feeds["train"]
    nonfinite: NonfinitePolicy = FailOnNonfinite()
    if job.recipe.train.on_nonfinite == "skip":
        nonfinite = SkipNonfinite(stage.state.model, job.strategy, log)
    batches = timer.watch(feed, train_work(job, steps), job.strategy.device)
    if steps[0] == 1:
        batches = draw_first(job, stage.inputs, batches, log)
    pending: list[StepResult] = []
    set_training(stage.state.model)
    timer.resume(feed.times)
    for step in steps:
        pending.append(train_step(job, stage, batches, step, nonfinite, log))
        progress = replace(progress, step=step)
        timer.images += plan.global_batch
        should_stop = comm.agree_to_stop()
        due = plan.due(step, should_stop=should_stop, is_stage_end=step == steps[-1])
        if due.log or job.recipe.log.samples:
            # Before a validation or a save: a loss that is not finite ends the run here.
            log_steps(job, timer, log, pending)
            pending = []
        timer.pause()
        if due.report:
            report_input(job, stage, step, log)
            stage.inputs.skipped.record(comm, log, step)
        if due.validate or due.save:
            # Before the validation: the best that it is compared with must be on disk.
            progress = saver.wait(progress)
        if due.validate and not should_stop:
            progress = validate(job, stage, progress, log)
        ending = why_end(plan, progress, should_stop=should_stop, patience=job.recipe.train.patience)
        if should_save(due, progress, ending):
            saver.save(progress)
        saver.log_finished(step)
        if ending is not None:
            return progress, ending
        timer.resume(feed.times)
    return progress, None


def is_validation_due(plan: Plan, progress: Progress) -> bool:
    """Whether the validation of the newest step was interrupted, or had not begun."""
    return plan.should_validate(progress.step) and progress.validated_step < progress.step


def why_end(plan: Plan, progress: Progress, *, should_stop: bool, patience: int | None) -> Ending | None:
    """Why training ends after this step; None when it continues, or the plan is done."""
    if should_stop or is_validation_due(plan, progress):  # still due: it was interrupted by a request to stop
        return "preempted"
    if patience is not None and progress.num_bad_validations >= patience:
        return "early_stopped"
    return None


def should_save(due: Due, progress: Progress, ending: Ending | None) -> bool:
    return due.save or progress.is_best or ending is not None


def validate(job: Job, stage: Stage, progress: Progress, log: RunLog) -> Progress:
    """Evaluate on the valid split, and remember whether this is the best so far; without such a split, the newest is.

    When some rank is asked to stop meanwhile, the validation stays due.
    """
    step, epoch, metric = progress.step, job.plan.epoch(progress.step) + 1, job.recipe.train.best_metric
    if "valid" not in job.plan.num_eval:
        best = Best(step, epoch, "step", float(step), {})
        return replace(progress, best=best, validated_step=step)
    try:
        metrics = evaluate_stage(job, stage, "valid").metrics(job.classes)
    except Stopped:
        return progress
    set_training(stage.state.model)
    improved = is_better(metric, metrics, progress.best.value if progress.best is not None else None)
    log.evaluation(step, "valid", metrics, weights_step=step, is_best=improved)
    return replace(
        progress,
        best=Best(step, epoch, metric, metrics[metric], metrics) if improved else progress.best,
        num_bad_validations=0 if improved else progress.num_bad_validations + 1,
        last_valid=metrics,
        validated_step=step,
    )
