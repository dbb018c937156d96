"""How a run ends: its best weights are measured and everything is written down, or what stopped it is."""

from __future__ import annotations

from dataclasses import asdict

from launcher.checkpoint import restore as checkpoint
from launcher.checkpoint.restore import Progress
from launcher.distributed.signals import StopRequest
from launcher.errors import EXIT_DONE, EXIT_FAILED, EXIT_RESUMABLE, Stopped
from launcher.metrics.counts import Figures
from launcher.run.final_charts import draw_pictures
from launcher.run.rank_log import LOGGER
from launcher.train.context import Training
from launcher.train.input_cost import judge_input
from launcher.train.loop import Status, evaluate_and_record
from launcher.train.skipped_samples import record_left_out
from launcher.train.stage import Learner
from launcher.train.summary import summary_rows, write_summary


def finish(t: Training, learner: Learner, progress: Progress, status: Status, stop: StopRequest) -> int:
    """Measure the best weights, write everything down, leave the other processes."""
    t.strategy.pulse.enter("finish")
    verdict = judge_input(t, learner, progress.step)
    final: dict[str, Figures] = {}
    if status != "preempted":
        try:
            final = _measure_best(t, learner, progress, stop)
        except Stopped:
            status = "preempted"
    record_left_out(t, progress.step)
    code = EXIT_RESUMABLE if status == "preempted" else EXIT_DONE
    _record_traffic(t, progress)
    if status != "preempted" and t.strategy.world.is_first:
        _draw(t, progress)
    _leave(t, progress, status, code)
    if t.strategy.world.is_first:
        summary = write_summary(t, status, progress, final.get("test"), learner.frozen_sha256, verdict)
        t.console.table(str(t.recipe.run.name), summary_rows(summary, str(t.run.path)))
        if status == "preempted":
            t.console.say("stopped as asked; the same command goes on from here")
    t.strategy.close()
    return code


def _measure_best(t: Training, learner: Learner, progress: Progress, stop: StopRequest) -> dict[str, Figures]:
    """Figures of the best checkpoint on the test split, or on valid where there is no test; shown and written down.

    Raise Stopped when asked to stop before that is over.
    """
    name, weights_step = ("best", progress.best.step) if progress.best is not None else ("last", progress.step)
    checkpoint.load_weights(t.run.checkpoints / name, t.whole, ema=t.ema is not None)
    split = next((split for split in ("test", "valid") if split in t.plan.num_eval), None)
    if split is None:
        return {}
    counts, figures = evaluate_and_record(t, learner, split, progress.step, weights_step, stop)
    confusion = counts.confusion_KK.tolist()
    t.console.evaluation(split, t.plan.epoch(weights_step) + 1, figures, is_best=True)
    t.journal.write(
        "event", progress.step, t.plan.epoch(progress.step) + 1, name="confusion", split=split, rows=confusion
    )
    return {split: figures}


def _record_traffic(t: Training, progress: Progress) -> None:
    """What each process had from a remote folder since it began."""
    ranks = [asdict(traffic) for traffic in t.strategy.gather(t.loaders["train"].reader.folder.traffic)]
    if any(any(each.values()) for each in ranks):
        t.journal.write("event", progress.step, t.plan.epoch(progress.step) + 1, name="remote", ranks=ranks)


def _draw(t: Training, progress: Progress) -> None:
    """The pictures of this end; the journal tells W&B of them, too."""
    t.strategy.pulse.enter("finish")
    epoch = t.plan.epoch(progress.step) + 1
    names, notes = draw_pictures(t.run.path, t.run.pictures)
    for name in names:
        t.journal.write("event", progress.step, epoch, name="picture", picture=name)
    for note in notes:
        t.journal.write("event", progress.step, epoch, name="note", message=note)
        t.console.say(f"note: {note}")


def _leave(t: Training, progress: Progress, status: str, code: int) -> None:
    """Close W&B and write the last record."""
    t.strategy.pulse.enter("finish")
    epoch = t.plan.epoch(progress.step) + 1
    for failure in t.wandb.finish(code):
        t.journal.write("event", progress.step, epoch, name="wandb_failed", message=failure)
        t.console.say(failure)
    t.journal.write("event", progress.step, epoch, name=status)


def fail(t: Training, error: BaseException) -> None:
    """Say in the run folder how it ended; the error itself goes on to the user."""
    status, code = ("preempted", EXIT_RESUMABLE) if isinstance(error, Stopped) else ("failed", EXIT_FAILED)
    LOGGER.error(status, exc_info=error)
    if t.strategy.world.is_first:
        _write_down_end(t, status, code, error)
    if isinstance(error, Stopped):
        t.strategy.close()  # all are here; who left earlier would have the launcher end rank 0 while it writes


def _write_down_end(t: Training, status: str, code: int, error: BaseException) -> None:
    try:
        t.saver.close()
        progress = checkpoint.read_progress(t.run.checkpoints / "last")
        t.journal.write("event", progress.step, 0, name="error", message=f"{type(error).__name__}: {error}")
        _leave(t, progress, status, code)
        write_summary(t, status, progress, None, None, None)
    except OSError as second:  # a full disk fails here again, and must not hide what came first
        LOGGER.error("could not be written down: %s", second)
