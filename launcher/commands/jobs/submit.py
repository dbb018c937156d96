"""`launcher submit RECIPE`: check the recipe, and send its training to SLURM."""

from __future__ import annotations

import math
from pathlib import Path

from launcher.commands.jobs.options import SubmitOptions
from launcher.commands.jobs.sbatch import CPUS_PER_PROCESS, WARN_S, SlurmJob, render_job, send_job
from launcher.data.prepare import prepare_data
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.parse import LoadedRecipe
from launcher.run.console import Console
from launcher.run.journal import JOURNAL_NAME, read_journal
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import MANIFEST_NAME

WARN_SAVES = 4
"""Seconds between SLURM's warning and the time limit, in longest saves so far; at least WARN_S."""


def submit(loaded: LoadedRecipe, overrides: tuple[str, ...], options: SubmitOptions) -> int:
    """Send the job, or print it for `dry_run`.

    Raise UserError where the job could not run, or sbatch is missing or refuses it; RecipeError where the recipe does
    not fit the number of processes.
    """
    options.check()
    name = str(loaded.recipe.run.name)
    job = SlurmJob(
        name=name,
        nodes=options.nodes,
        gpus_per_node=options.gpus_per_node,
        cpus_per_task=_choose_cpus(options, loaded.recipe.data.workers),
        time=options.time,
        warn_s=max(WARN_S, math.ceil(WARN_SAVES * _longest_save_s(name))),
        starter=options.starter,
        options=tuple(f"--{key}={value}" for key, value in options.site.items()),
        arguments=(loaded.file, *overrides),
    )
    # Names and files are checked, and the plan where the data is packed, before the job waits in a queue.
    recipe = complete_recipe(loaded, lambda note: None)
    if recipe.data.source is None or (recipe.data.folder / MANIFEST_NAME).exists():
        plan_run(loaded, recipe, options.nodes * options.processes_per_node, prepare_data(recipe.data, World()))
    text = render_job(job)
    if options.dry_run:
        print(text, end="")
        return EXIT_DONE
    size = f"{options.nodes} x {options.processes_per_node} processes"
    Console().say(f"job {send_job(text)}: {name}, {size}; follow it with squeue --me")
    return EXIT_DONE


def _choose_cpus(options: SubmitOptions, workers: int | None) -> int:
    """CPUs of a node. Raise UserError when those requested are too few for the recipe's loader threads."""
    processes, requested = options.processes_per_node, options.cpus_per_task
    needed = processes * max(workers or 1, 1)
    if requested is None:
        return max(needed, processes * CPUS_PER_PROCESS) if workers is None else needed
    if requested < needed:
        raise UserError(
            f"--cpus-per-task {requested}: {processes} processes with data.workers={workers or 1} need {needed} CPUs "
            f"a node; set {needed}, or lower data.workers"
        )
    return requested


def _longest_save_s(name: str) -> float:
    """Seconds of the longest save in the recipe's runs under `runs/`; 0 without any."""
    journals = [path for runs in (f"{name}/*", f"{name}-*") for path in Path("runs").glob(f"{runs}/{JOURNAL_NAME}")]
    records = (record for path in journals for record in read_journal(path.parent) if record["kind"] == "checkpoint")
    return max((record.get("blocked_s", 0.0) + record.get("write_s", 0.0) for record in records), default=0.0)
