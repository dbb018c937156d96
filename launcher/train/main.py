"""`launcher RECIPE`: the whole journey of a recipe, one call a step."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from launcher.checkpoint import restore as checkpoint
from launcher.checkpoint.restore import Progress
from launcher.data.prepare import prepare_data
from launcher.distributed.signals import StopRequest, follow_launcher
from launcher.distributed.strategy import build_strategy
from launcher.distributed.watchdog.start import start_heartbeat
from launcher.distributed.watchdog.thread import NoHeartbeat
from launcher.distributed.world import World, find_few_cpus, read_world
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.lock import LOCK_NAME, write_lock
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.resolve import DEBUG_EVAL_IMAGES, debug_recipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.run.folder import debug_folder, open_run, read_summary
from launcher.run.journal import read_first
from launcher.run.rank_log import LOGGER, log_warnings, open_rank_log
from launcher.train.context import Training, build_training
from launcher.train.finish import fail, finish
from launcher.train.loop import check_frozen, fit
from launcher.train.prepare import complete_recipe, plan_run
from launcher.train.stage import Learner, enter_stage
from launcher.train.summary import summary_rows
from launcher.version import read_versions
from shards.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside recipe and overrides."""

    debug: bool = False
    fresh: bool = False
    allow_change: tuple[str, ...] = ()


def main(loaded: LoadedRecipe, options: Options) -> int:
    """Train, evaluate the best checkpoint, and return the exit code. Every rank runs this.

    Raise LauncherError or ShardsError for what the user can mend.
    """
    stop = StopRequest()
    follow_launcher()
    world = read_world(os.environ)
    log_warnings()
    torch.autograd.set_detect_anomaly(options.debug)
    recipe = choose_recipe(loaded, options, world)
    # Before the data, so that the processes can agree to stop while one of them packs.
    strategy = build_strategy(recipe.strategy, world, recipe.run.seed, recipe.run.deterministic)
    with strategy.first_ahead(stop.is_wanted) as should_stop:
        manifest = prepare_data(recipe.data, world, should_stop)
    plan = plan_run(loaded, recipe, world.size, manifest, DEBUG_EVAL_IMAGES if options.debug else None)
    strategy.check_same("shards, recipe or number of images", [manifest.sha256, recipe.model_dump_json(), str(plan)])
    run = strategy.on_first(lambda: open_run(recipe, options.fresh or options.debug, options.allow_change))
    open_rank_log(run.logs, world.rank)
    if run.state == "finished":
        return _show_finished(run.path, world)
    recipe = recipe.model_copy(update={"run": recipe.run.model_copy(update={"dir": str(run.path)})})
    t = build_training(recipe, plan, manifest, strategy, run)
    heartbeat = _start_heartbeat(t)
    try:
        learner, progress = _start(t, manifest, stop)
        learner, progress, status = fit(t, learner, progress, stop)
        check_frozen(t, learner)
        return finish(t, learner, progress, status, stop)
    except BaseException as error:
        lost = heartbeat.fail(error)
        fail(t, lost or error)
        if lost is not None:
            raise lost from error
        raise
    finally:
        t.close()
        heartbeat.close()


def choose_recipe(loaded: LoadedRecipe, options: Options, world: World) -> Recipe:
    """The recipe that will run: its names checked against the models there are; a small one for `--debug`."""
    if options.debug:
        loaded = without_file(loaded)
    recipe = complete_recipe(loaded, Console(1, 1).say if world.is_first else lambda note: None)
    if not options.debug:
        return recipe
    if world.size > 1:
        raise UserError(f"--debug is a single process, not {world.size}: python -m launcher {loaded.file} --debug")
    folder = Path(recipe.run.dir) if recipe.run.dir is not None else debug_folder(recipe)
    if recipe.run.dir is not None and (folder / LOCK_NAME).exists():
        raise UserError(f"{folder}: holds a run, which --debug would replace; leave run.dir out, or name another")
    return debug_recipe(recipe, folder)


def without_file(loaded: LoadedRecipe) -> LoadedRecipe:
    """A debug run begins with random weights: those in a file need not be there."""
    backbone = loaded.recipe.backbone
    if backbone.weights_file is None:
        return loaded
    backbone = backbone.model_copy(update={"weights": "none"})
    return replace(loaded, recipe=loaded.recipe.model_copy(update={"backbone": backbone}))


def _start_heartbeat(t: Training) -> NoHeartbeat:
    pulse = t.strategy.pulse
    pulse.readers += [partial(getattr, loader.reader, "reading") for loader in t.loaders.values()]

    def record(name: str, message: str) -> None:
        t.journal.write("event", pulse.at[1], 0, name=name, message=message)

    def say(message: str) -> None:
        t.console.say(message)
        record("note", message)

    return start_heartbeat(t.strategy, t.recipe.strategy.hang_timeout_s, t.run.logs, partial(record, "hang"), say)


def _start(t: Training, manifest: Manifest, stop: StopRequest) -> tuple[Learner, Progress]:
    """Load the newest complete checkpoint, if any, and write down what begins or goes on here."""
    skipped: list[str] = []
    start = checkpoint.find_start(t.run.checkpoints, t.state, skipped.append)
    checkpoint.restore_weights(start, t.state)
    progress = start.progress
    epoch = t.plan.epoch(progress.step) + 1
    is_first_start = not read_first(t.run.path)
    header = f"run {t.run.id}, data {manifest.sha256}"
    if t.strategy.world.is_first and t.run.state == "new":
        write_lock(t.run.path, t.recipe, header)
    if t.strategy.world.is_first:
        t.journal.write("event", progress.step, epoch, **_facts(t, manifest, is_first_start))
    if t.run.state == "resumed" and progress.step == 0:
        skipped.append("no checkpoint to go on from: starts at step 0")
    for message in skipped:
        t.journal.write("event", progress.step, epoch, name="checkpoint_skipped", message=message)
        t.console.say(message)
    LOGGER.info("rank %d of %d starts at step %d", t.strategy.world.rank, t.plan.world_size, progress.step)
    _say_start(t, progress)
    stage = t.plan.stage(min(progress.step + 1, t.plan.total_steps) if progress.is_judged else progress.step)
    learner = enter_stage(t, stage, progress.step, stop.is_wanted)
    checkpoint.restore_optimizer(start, t.state)
    if t.strategy.world.is_first and t.run.changes:  # only now is it known that the run can go on with them
        write_lock(t.run.path, t.recipe, header)
    return learner, progress


def _facts(t: Training, manifest: Manifest, is_first_start: bool) -> dict[str, Any]:
    """The first record of a journal, and that of every resume: with what, on what, how."""
    return {
        "name": "started" if is_first_start else "resumed",
        "wandb_id": t.run.id,
        "changes": {key: list(values) for key, values in t.run.changes.items()},
        "plan": asdict(t.plan),
        "data_sha256": manifest.sha256,
        "device": t.strategy.device.type,
        "versions": read_versions(),
        "python": platform.python_version(),
        "command": sys.argv,
    }


def _say_start(t: Training, progress: Progress) -> None:
    plan, strategy = t.plan, t.recipe.strategy
    t.console.say(
        f"{t.recipe.run.name}: {t.recipe.backbone.name} on {plan.num_train:,} images of {plan.num_classes} classes, "
        f"{plan.world_size} x {t.strategy.device.type}, precision {strategy.precision}"
    )
    t.console.say(
        f"{plan.total_steps:,} steps of {plan.global_batch:,} images ({plan.steps_per_epoch:,} an epoch), "
        f"W&B {t.wandb.mode}, folder {t.run.path}"
    )
    t.console.say(t.loaders["train"].reader.folder.describe())
    for note in (*plan.notes, *find_few_cpus(t.recipe.data.workers, t.strategy.world, os.environ)):
        t.console.say(f"note: {note}")
        t.journal.write("event", progress.step, 0, name="note", message=note)
    if progress.step:
        t.console.say(f"goes on after step {progress.step:,}")


def _show_finished(path: Path, world: World) -> int:
    if world.is_first:
        console = Console(1, 1)
        console.table(path.name, summary_rows(read_summary(path), str(path)))
        console.say("this run is finished; --fresh starts anew")
    return EXIT_DONE
