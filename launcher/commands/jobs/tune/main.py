"""`launcher tune RECIPE --search FILE`: many trainings, to find better values for keys of a recipe."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from launcher.commands.jobs.tune.folder import hold_folder
from launcher.commands.jobs.tune.loop import run_trials
from launcher.commands.jobs.tune.optimiser import Optimiser
from launcher.commands.jobs.tune.report import show_trials, write_pictures
from launcher.commands.jobs.tune.search import Search, is_plain, load_search, own_values
from launcher.commands.jobs.tune.slurm import parse_options
from launcher.commands.jobs.tune.trial import Task
from launcher.data.prepare import prepare_data
from launcher.distributed.comm import ShouldStop
from launcher.distributed.signals import install_signal_handlers
from launcher.distributed.strategy import choose_device
from launcher.distributed.world import World, read_world
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.parse import LoadedRecipe, load_recipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.train.prepare import complete_recipe, plan_run


@dataclass(frozen=True, slots=True)
class Options:
    """As `launcher tune` takes them. `parallel`: trials at a time; None: one, or as many as there are GPUs for."""

    search: Path
    folder: Path | None = None
    parallel: int | None = None
    processes: int = 1
    slurm: str | None = None


def tune(recipe_file: Path, overrides: Sequence[str], options: Options) -> int:
    """Run the trials that are not done yet; write the best recipe; show them all. The same command goes on.

    Raise LauncherError or ShardsError for what the user can mend.
    """
    stop, console = install_signal_handlers(), Console()
    loaded = load_recipe(recipe_file, overrides)
    found = load_search(options.search, recipe_file, overrides)
    task = _plan(loaded, options, console, stop)
    search = found.search
    with hold_folder(task, found, loaded, overrides, console.say):
        optimiser = Optimiser(task.folder, search)
        _begin(optimiser, search, loaded, console)
        run_trials(optimiser, task, search, console, stop)
        trials = optimiser.trials()
        show_trials(task, trials, console)
        for note in write_pictures(task, search, optimiser, trials):
            console.say(f"note: {note}")
    return EXIT_DONE


def _plan(loaded: LoadedRecipe, options: Options, console: Console, stop: ShouldStop) -> Task:
    """Look at everything that would let all trials fail, and pack the data once."""
    recipe = complete_recipe(loaded, console.say)
    name, metric = f"{recipe.run.name}-{options.search.stem}", recipe.train.best_metric
    task = Task(
        folder=options.folder or Path("runs") / name,
        name=name,
        metric=metric,
        sign=-1 if metric == "loss" else 1,
        **_share_out(recipe, options),
    )
    if task.job is not None and not is_plain(str(task.folder)):
        raise UserError(f"--folder {task.folder}: of jobs, must be letters, digits and _ . - / only")
    manifest = prepare_data(recipe.data, World(), stop)
    plan = plan_run(loaded, recipe, task.processes, manifest)
    if "valid" not in plan.num_eval:
        raise UserError(
            f"{loaded.file}: a search goes by the valid split, which the data does not have; see data.split"
        )
    return task


def _share_out(recipe: Recipe, options: Options) -> dict[str, Any]:
    """What of the machine, or of the cluster, each trial has."""
    for name, number in (("parallel", options.parallel), ("processes", options.processes)):
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")
    if read_world(os.environ).size > 1:
        raise UserError("tune starts its processes itself: launcher tune RECIPE --search FILE --processes N")
    if options.slurm is not None:
        job = parse_options(options.slurm)
        if options.processes != 1:
            raise UserError("--processes is for trials on this machine; a job has one for each of --gpus-per-node")
        return {"processes": max(job.gpus_per_node, 1), "device": "", "parallel": options.parallel or 1, "job": job}
    num_gpus, processes = torch.cuda.device_count(), options.processes
    device = choose_device(recipe.strategy.device, num_gpus, World(), os.environ)
    parallel = options.parallel or (max(1, num_gpus // processes) if device == "cuda" else 1)
    if device == "cuda" and parallel * processes > num_gpus:
        words = f"{parallel} trials of {processes} processes need {parallel * processes} GPUs, here are {num_gpus}"
        raise UserError(f"{words}; choose a smaller --parallel or --processes")
    return {"processes": processes, "device": device, "parallel": parallel}


def _begin(optimiser: Optimiser, search: Search, loaded: LoadedRecipe, console: Console) -> None:
    """The recipe as it is comes first, so that the best is never worse."""
    if search.wanted < search.trials:
        console.say(f"note: there are only {search.most} different trials, not {search.trials}: all of them are tried")
    if optimiser.trials():
        return
    values, outside = own_values(search, loaded.recipe)
    for key in outside:
        console.say(f"note: the recipe's own {key}, {values.get(key)}, is not in the search: it is no trial")
    if not outside:
        optimiser.add(values)
