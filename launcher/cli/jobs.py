"""Commands that start trainings: a search, a check of resuming, a SLURM job."""
# ruff: noqa: B008 - the options are frozen

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: F401 - cyclopts evaluates the annotations that _TuneOptions inherits here
from typing import Annotated

from cyclopts import Parameter

from launcher.cli.arguments import Flat, Override, RecipeFile
from launcher.commands.jobs.options import SubmitOptions, TuneOptions, VerifyOptions
from launcher.recipe.parse import load_recipe


@dataclass(frozen=True, kw_only=True)
class _TuneOptions(TuneOptions):
    """The options of sbatch begin with hyphens."""

    slurm: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None


def tune(recipe: RecipeFile, /, *overrides: Override, options: Flat[_TuneOptions]) -> int:
    """Search for better values of a recipe's keys. Each trial is a training; the same command resumes the search."""
    from launcher.commands.jobs.tune.main import tune as tune_recipe

    return tune_recipe(recipe, overrides, options)


def verify_resume(recipe: RecipeFile, /, *overrides: Override, options: Flat[VerifyOptions] = VerifyOptions()) -> int:
    """Check that killing and resuming this recipe gives the same training: a few steps, in a folder of their own."""
    from launcher.commands.jobs.verify_resume.main import verify

    return verify(recipe, overrides, options)


def submit(recipe: RecipeFile, /, *overrides: Override, options: Flat[SubmitOptions] = SubmitOptions()) -> int:
    """Submit the training as a SLURM job. It saves and requeues itself before the time limit and when preempted."""
    from launcher.commands.jobs.submit import submit as submit_recipe

    return submit_recipe(load_recipe(recipe, overrides), overrides, options)
