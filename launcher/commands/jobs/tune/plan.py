"""The plan of a search: everything its trials share, checked so that no trial fails because of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from launcher.commands.jobs.options import TuneOptions
from launcher.commands.jobs.sbatch import SlurmJob
from launcher.commands.jobs.tune.search import Search, is_plain
from launcher.commands.jobs.tune.slurm import parse_options
from launcher.data.prepare import prepare_data
from launcher.distributed.comm import ShouldStop
from launcher.distributed.strategy import choose_device
from launcher.distributed.world import World
from launcher.errors import UserError
from launcher.metrics.names import higher_is_better
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.text import Say
from launcher.train.prepare import complete_recipe, plan_run


@dataclass(frozen=True)
class SearchPlan:
    search: Search
    folder: Path
    name: str
    """Run name of every trial."""
    metric: str
    """The recipe's `train.best_metric`."""
    processes: int
    """Processes of each trial."""
    parallel: int
    """Trials at a time."""
    device: str
    """Device of the trials that run on this machine."""
    job: SlurmJob | None = None
    """SLURM job of each trial, without its arguments; None: trials run on this machine."""

    @property
    def sign(self) -> int:
        """Factor between metric and score; higher scores are better."""
        return 1 if higher_is_better(self.metric) else -1

    @property
    def recipe_file(self) -> Path:
        """The search's own copy with the overrides: the user may edit the recipe while trials run or queue."""
        return self.folder / "recipe.yaml"

    def folder_of(self, number: int) -> Path:
        return self.folder / f"trial-{number:03d}"


def plan_search(loaded: LoadedRecipe, search: Search, options: TuneOptions, say: Say, stop: ShouldStop) -> SearchPlan:
    """Check the recipe on this data and these devices. Packs the data.

    Raise LauncherError or ShardsError for what the user can fix.
    """
    recipe = complete_recipe(loaded, say)
    name = f"{recipe.run.name}-{options.search.stem}"
    folder = options.folder or Path("runs") / name
    job = None if options.slurm is None else parse_options(options.slurm)
    if job is None:
        processes = options.processes
        device, parallel = _divide_machine(recipe, options)
    else:
        if not is_plain(str(folder)):
            raise UserError(f"--folder {folder}: with --slurm, use only letters, digits and _ . - /")
        device, processes, parallel = "", max(job.gpus_per_node, 1), options.parallel or 1
    manifest = prepare_data(recipe.data, World(), stop)
    plan = plan_run(loaded, recipe, processes, manifest)
    if "valid" not in plan.num_eval:
        raise UserError(
            f"{loaded.file}: a search compares trials on the valid split, which the data does not have; see data.split"
        )
    return SearchPlan(search, folder, name, recipe.train.best_metric, processes, parallel, device, job)


def _divide_machine(recipe: Recipe, options: TuneOptions) -> tuple[str, int]:
    """Device of the trials, and how many run at a time."""
    num_gpus, processes = torch.cuda.device_count(), options.processes
    device = choose_device(recipe.strategy.device, num_gpus, World(), os.environ)
    if device != "cuda":
        return device, options.parallel or 1
    parallel = options.parallel or max(1, num_gpus // processes)
    if parallel * processes > num_gpus:
        raise UserError(
            f"{parallel} trials of {processes} processes need {parallel * processes} GPUs, this machine has "
            f"{num_gpus}; choose a smaller --parallel or --processes"
        )
    return device, parallel
