"""How a run ends: its best weights are evaluated and everything is written down, or the error that stopped it is."""

from __future__ import annotations

from dataclasses import asdict

from launcher.checkpoint.restore import load_weights, read_progress
from launcher.checkpoint.saver import Saver
from launcher.checkpoint.state import Progress
from launcher.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, Stopped
from launcher.metrics.names import Metrics
from launcher.run.final_charts import draw_charts
from launcher.run.rank_log import LOGGER
from launcher.run.run_log import RunLog
from launcher.train.evaluate import evaluate_stage
from launcher.train.input_report import report_input
from launcher.train.inputs import Inputs
from launcher.train.job import Job
from launcher.train.loop import Ending
from launcher.train.stage import Stage
from launcher.train.summary import build_summary, summary_rows, write_summary


def finish(job: Job, stage: Stage, progress: Progress, ending: Ending, log: RunLog) -> int:
    """Evaluate the best weights, write everything down, leave the other ranks. Return the exit code."""
    comm, inputs, step = job.strategy.comm, stage.inputs, progress.step
    comm.beacon.enter("finish")
    report = report_input(job, stage, step, log)
    test: Metrics | None = None
    if ending != "preempted":
        try:
            test = _evaluate_best(job, stage, progress, log)
        except Stopped:
            ending = "preempted"
    inputs.skipped.record(comm, log, step)
    _log_traffic(job, inputs, step, log)
    comm.beacon.enter("finish")
    if ending != "preempted" and comm.world.is_first:
        _draw_charts(job, step, log)
    code = EXIT_RESUMABLE if ending == "preempted" else EXIT_DONE
    log.end(step, ending, code)
    if comm.world.is_first:
        summary = build_summary(job, inputs, progress, ending, log.wandb_mode, test, stage.frozen_sha256, report)
        write_summary(job, summary)
        log.table(str(job.recipe.run.name), summary_rows(summary, str(job.run.path)))
        if ending == "preempted":
            log.say(f"stopped as asked; the same command resumes at step {step:,}")
    comm.close()
    return code


def _evaluate_best(job: Job, stage: Stage, progress: Progress, log: RunLog) -> Metrics | None:
    """Evaluate the best checkpoint on the test split, or on valid where there is no test. Return the test metrics.

    Raise Stopped when asked to stop before that is over.
    """
    name, weights_step = ("best", progress.best.step) if progress.best is not None else ("last", progress.step)
    # Earlier stages froze all that this one freezes: its engine and features are right for any checkpoint's weights.
    load_weights(job.run.checkpoints / name, stage.state.eval_model, ema=stage.state.ema is not None)
    split = next((split for split in ("test", "valid") if split in job.plan.num_eval), None)
    if split is None:
        return None
    counts = evaluate_stage(job, stage, split)
    metrics = counts.metrics(job.classes)
    log.evaluation(progress.step, split, metrics, weights_step=weights_step)
    log.event(progress.step, "confusion", split=split, rows=counts.confusion_KK.tolist())
    return metrics if split == "test" else None


def _log_traffic(job: Job, inputs: Inputs, step: int, log: RunLog) -> None:
    """Log what each rank has fetched from a remote folder since it started."""
    ranks = [asdict(traffic) for traffic in job.strategy.comm.all_gather_object(inputs.folder.traffic)]
    if any(any(each.values()) for each in ranks):
        log.event(step, "remote", ranks=ranks)


def _draw_charts(job: Job, step: int, log: RunLog) -> None:
    """The charts of this end; the journal tells W&B of them, too."""
    names, notes = draw_charts(job.run.path, job.run.pictures)
    for name in names:
        log.event(step, "picture", picture=name)
    for note in notes:
        log.note(step, note)


def fail(job: Job, inputs: Inputs, saver: Saver, log: RunLog, error: BaseException) -> None:
    """Write in the run folder how it ended; the error itself is raised on to the user."""
    status, code = ("preempted", EXIT_RESUMABLE) if isinstance(error, Stopped) else ("failed", EXIT_FAILED)
    LOGGER.error(status, exc_info=error)
    comm = job.strategy.comm
    if comm.world.is_first:
        try:
            saver.close()
            progress = read_progress(job.run.checkpoints / "last")
            log.event(progress.step, "error", f"{type(error).__name__}: {error}")
            comm.beacon.enter("finish")
            log.end(progress.step, status, code)
            write_summary(job, build_summary(job, inputs, progress, status, log.wandb_mode))
        except OSError as second:  # a full disk fails here again, and must not hide what came first
            LOGGER.error("could not be written down: %s", second)
    if isinstance(error, Stopped):
        comm.close()  # all are here; one that left earlier would have the launcher end rank 0 while it writes
