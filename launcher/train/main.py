"""`launcher RECIPE`: the whole journey of a recipe, one call a step."""

from __future__ import annotations

import os
import platform
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from launcher.checkpoint.restore import find_start, restore_optimizer, restore_weights
from launcher.checkpoint.saver import Saver
from launcher.checkpoint.state import Progress, TrainState
from launcher.distributed.gpus import find_slow_bf16
from launcher.distributed.signals import follow_launcher, install_signal_handlers
from launcher.distributed.strategy import build_strategy
from launcher.distributed.watchdog.start import start_watchdog
from launcher.distributed.watchdog.thread import Watchdog
from launcher.distributed.world import World, find_few_cpus, read_world
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.fields import with_values
from launcher.recipe.lock import LOCK_NAME, write_lock
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.resolve import DEBUG_EVAL_IMAGES, debug_recipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.run.folder import debug_folder, open_run, read_summary
from launcher.run.journal import read_first
from launcher.run.rank_log import LOGGER, log_warnings
from launcher.run.run_log import RunLog
from launcher.train.finish import fail, finish
from launcher.train.inputs import Inputs, build_inputs
from launcher.train.job import Job, build_state, open_job, open_run_log
from launcher.train.loop import fit, is_validation_due
from launcher.train.options import TrainOptions
from launcher.train.out_of_memory import describe_training, out_of_memory_in_words
from launcher.train.prepare import complete_recipe
from launcher.train.stage import Stage, check_frozen, enter_stage
from launcher.train.summary import summary_rows
from launcher.version import read_versions


def main(loaded: LoadedRecipe, options: TrainOptions) -> int:
    """Train, evaluate the best checkpoint, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can correct.
    """
    stop = install_signal_handlers()
    follow_launcher()
    world = read_world(os.environ)
    log_warnings()
    torch.autograd.set_detect_anomaly(options.debug)
    recipe = choose_recipe(loaded, options, world)
    # Before the data, so that the ranks can agree to stop while one of them packs.
    strategy = build_strategy(recipe.strategy, world, recipe.run.seed, recipe.run.deterministic, stop)
    open_run_folder = partial(open_run, fresh=options.fresh or options.debug, allowed=options.allow_change)
    max_eval_images = DEBUG_EVAL_IMAGES if options.debug else None
    job = open_job(loaded, recipe, strategy, open_run_folder, max_eval_images)
    if job.run.state == "finished":
        return _show_finished(job.run.path, world)
    with ExitStack() as closing:
        if world.is_first:
            closing.callback(job.run.release)
        state, log = build_state(job), open_run_log(job)
        inputs = build_inputs(job, log.say)
        saver = Saver(job.run.checkpoints, job.recipe.checkpoint, state, log)
        watchdog = _start_watchdog(job, inputs, log)
        for each in (log, watchdog, inputs, saver):  # closed in the other order
            closing.callback(each.close)
        try:
            with out_of_memory_in_words(lambda: describe_training(job.recipe, job.plan, strategy.comm.beacon.position)):
                stage, progress = _resume(job, state, inputs, log)
                stage, progress, ending = fit(job, stage, progress, saver, log)
                check_frozen(job, stage)
                return finish(job, stage, progress, ending, log)
        except BaseException as error:
            lost = watchdog.fail(error)
            fail(job, inputs, saver, log, lost or error)
            if lost is not None:
                raise lost from error
            raise


def choose_recipe(loaded: LoadedRecipe, options: TrainOptions, world: World) -> Recipe:
    """The recipe that will run: its names checked against the models there are; a small one for `--debug`."""
    if options.debug and loaded.recipe.backbone.weights_file is not None:
        # A debug run begins with random weights: those in a file need not be there.
        loaded = replace(loaded, recipe=with_values(loaded.recipe, {"backbone.weights": "none"}))
    recipe = complete_recipe(loaded, Console().say if world.is_first else lambda note: None)
    if not options.debug:
        return recipe
    if world.size > 1:
        raise UserError(f"--debug is a single process, not {world.size}: python -m launcher {loaded.file} --debug")
    folder = Path(recipe.run.dir) if recipe.run.dir is not None else debug_folder(recipe)
    if recipe.run.dir is not None and (folder / LOCK_NAME).exists():
        raise UserError(f"{folder}: holds a run, which --debug would replace; leave run.dir out, or name another")
    return debug_recipe(recipe, folder)


def _start_watchdog(job: Job, inputs: Inputs, log: RunLog) -> Watchdog:
    comm = job.strategy.comm
    comm.beacon.readers += [feed.loader.reader.current for feed in inputs.image_feeds.values()]

    def record(line: str) -> None:
        log.event(comm.beacon.position.step, "hang", line)

    say = partial(log.event, 0, "note", show=True)
    return start_watchdog(comm, job.recipe.strategy.hang_timeout_s, job.run.logs, record, say)


def _resume(job: Job, state: TrainState, inputs: Inputs, log: RunLog) -> tuple[Stage, Progress]:
    """Restore the newest complete checkpoint, if any, and enter its stage; the lock and the journal tell of it."""
    run, lock = job.run, partial(write_lock, job.run.path, job.recipe, f"run {job.run.id}, data {job.manifest.sha256}")
    is_first = job.strategy.world.is_first
    notes: list[str] = []
    start = find_start(run.checkpoints, state, notes.append)
    restore_weights(start, state)
    progress = start.progress
    if is_first and run.state == "new":
        lock()
    _log_start(job, inputs, progress, notes, log)
    next_step = progress.step if is_validation_due(job.plan, progress) else progress.step + 1
    number = job.plan.stage(min(next_step, job.plan.total_steps))
    stage = enter_stage(job, state, inputs, number, progress.step, log)
    restore_optimizer(start, state)  # once the stage has added the parameter groups that the checkpoint has
    if is_first and run.changes:  # only now is it known that the run can resume with them
        lock()
    return stage, progress


def _log_start(job: Job, inputs: Inputs, progress: Progress, notes: list[str], log: RunLog) -> None:
    """`notes`: of checkpoints that could not be used."""
    log.event(progress.step, "resumed" if read_first(job.run.path) else "started", **_describe_start(job))
    if job.run.state == "resumed" and progress.step == 0:
        notes = [*notes, "no checkpoint to resume from: starts at step 0"]
    for message in notes:
        log.event(progress.step, "checkpoint_skipped", message, show=True)
    LOGGER.info("rank %d of %d starts at step %d", job.strategy.world.rank, job.plan.world_size, progress.step)
    _say_start(job, inputs, progress, log)


def _describe_start(job: Job) -> dict[str, Any]:
    """Fields of the first record of a journal and of every resume: plan, data, device, versions and command."""
    return {
        "wandb_id": job.run.id,
        "changes": {key: list(values) for key, values in job.run.changes.items()},
        "plan": asdict(job.plan),
        "data_sha256": job.manifest.sha256,
        "device": job.strategy.device.type,
        "versions": read_versions(),
        "python": platform.python_version(),
        "command": sys.argv,
    }


def _say_start(job: Job, inputs: Inputs, progress: Progress, log: RunLog) -> None:
    plan, recipe, strategy = job.plan, job.recipe, job.strategy
    data = f"{plan.num_train:,} images of {plan.num_classes} classes"
    machine = f"{plan.world_size} x {strategy.device.type}, precision {recipe.strategy.precision}"
    steps = f"{plan.total_steps:,} steps of {plan.global_batch:,} images ({plan.steps_per_epoch:,} an epoch)"
    log.say(f"{recipe.run.name}: {recipe.backbone.name} on {data}, {machine}")
    log.say(f"{steps}, W&B {log.wandb_mode}, folder {job.run.path}")
    log.say(inputs.folder.describe())
    few_cpus = find_few_cpus(recipe.data.workers, inputs.num_cpus, strategy.world, os.environ)
    slow_bf16 = find_slow_bf16(recipe.strategy.precision, strategy.device)
    for note in (*plan.notes, *few_cpus, *slow_bf16):
        log.note(progress.step, note)
    if progress.step:
        log.say(f"resumes at step {progress.step:,}")


def _show_finished(path: Path, world: World) -> int:
    if world.is_first:
        console = Console()
        console.table(path.name, summary_rows(read_summary(path), str(path)))
        console.say("this run is finished; --fresh starts anew")
    return EXIT_DONE
