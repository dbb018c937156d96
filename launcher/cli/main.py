"""The command line: the arguments and options of each command, and the function that it calls.

A bare recipe means: train. Commands that need torch import their function when they run, so that the others start fast.
"""
# ruff: noqa: B008 - the options are frozen

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from cyclopts import App, Parameter

import launcher
from launcher.cli.outcome import run_app
from launcher.commands.jobs.options import SubmitOptions, TuneOptions, VerifyOptions
from launcher.commands.model.options import EvaluateOptions, ExplainOptions, ExportOptions, PredictOptions
from launcher.commands.recipe.options import BenchOptions, CheckOptions, ShowOptions
from launcher.commands.runs.feature_cache import list_features, remove_features
from launcher.commands.runs.list import list_runs
from launcher.commands.runs.options import CompareOptions
from launcher.commands.runs.sync import sync as sync_runs
from launcher.commands.runs.watch import watch as watch_run
from launcher.errors import EXIT_DONE
from launcher.recipe.fields import RecipeSchema
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from launcher.train.options import TrainOptions

T = TypeVar("T")
Flat = Annotated[T, Parameter(name="*")]
"""A frozen dataclass: each field is an option of the command, and its docstring the help."""

RecipeFile = Annotated[Path, Parameter(help="A YAML file; see recipes/.")]
Override = Annotated[str, Parameter(help="Values to change, as `key.path=value`.")]
Run = Annotated[Path, Parameter(help="A run's folder, `runs/NAME/DATE-...`, or one of its checkpoints.")]
NamedModel = Annotated[
    str,
    Parameter(help="A run's folder, one of its checkpoints, or `torchvision/NAME` for a network trained on ImageNet."),
]
Images = Annotated[str, Parameter(help="An image, a folder of images, a pattern, or a folder of shards.")]
MoreImages = Annotated[str, Parameter(help="More of them.")]
RunFolder = Annotated[Path, Parameter(help="A run folder, `runs/NAME/DATE-...`.")]
MoreRuns = Annotated[Path, Parameter(help="More run folders.")]
Folder = Annotated[Path, Parameter(help="Run folders, or folders that hold some. Default: runs/.")]
RunName = Annotated[
    str,
    Parameter(help="Run folders, globs, and runs in W&B: entity/project/run, the address of a run's page, group:NAME."),
]
AsJson = Annotated[bool, Parameter(name="--json", help="Print a JSON list, for programs.")]
Once = Annotated[bool, Parameter(help="Show the state of the run once and exit.")]
Key = Annotated[str | None, Parameter(help="A key of `launcher cache ls`, or the beginning of one.")]
RemoveAll = Annotated[bool, Parameter(name="--all", help="Remove all features.")]


def train(recipe: RecipeFile, /, *overrides: Override, options: Flat[TrainOptions] = TrainOptions()) -> int:
    """Train. The same command again resumes the same run."""
    from launcher.train.main import main

    return main(load_recipe(recipe, overrides), options)


def check(recipe: RecipeFile, /, *overrides: Override, options: Flat[CheckOptions] = CheckOptions()) -> int:
    """Check a recipe against the manifest of its shards and print the plan. Trains nothing, downloads nothing."""
    from launcher.commands.recipe.check import check as check_recipe

    return check_recipe(load_recipe(recipe, overrides), options)


def fetch(recipe: RecipeFile, /, *overrides: Override) -> int:
    """Download and pack everything a recipe needs, so that it can train on machines without a network."""
    from launcher.commands.recipe.fetch import fetch as fetch_recipe

    return fetch_recipe(load_recipe(recipe, overrides))


def show(recipe: RecipeFile, /, *overrides: Override, options: Flat[ShowOptions] = ShowOptions()) -> int:
    """Write a PNG of training images beside their augmented views, as the network will see them."""
    from launcher.commands.recipe.show import show as show_recipe

    return show_recipe(load_recipe(recipe, overrides), options)


def probe(recipe: RecipeFile, /, *overrides: Override) -> int:
    """Fit a logistic regression to the features of the recipe's backbone, all of it frozen. Trains no network and
    ignores the recipe's head, freezing and training.
    """
    from launcher.commands.recipe.probe.main import probe as probe_recipe

    return probe_recipe(load_recipe(recipe, overrides))


def bench(recipe: RecipeFile, /, *overrides: Override, options: Flat[BenchOptions] = BenchOptions()) -> int:
    """Measure the speed of reading, decoding, augmentation, the whole input and the network on this machine. Keeps
    nothing.
    """
    from launcher.commands.recipe.bench.main import bench as bench_recipe

    return bench_recipe(load_recipe(recipe, overrides), options)


def schema() -> int:
    """Print the JSON schema of recipes, for editors."""
    print(json.dumps(Recipe.model_json_schema(schema_generator=RecipeSchema), indent=1))
    return EXIT_DONE


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


def evaluate(run: Run, /, *, options: Flat[EvaluateOptions] = EvaluateOptions()) -> int:
    """Evaluate a run's model on a split: accuracy, loss, calibration, confusion matrix, worst mistakes."""
    from launcher.commands.model.evaluate.main import evaluate_run

    return evaluate_run(run, options)


def predict(
    run: NamedModel, path: Images, /, *paths: MoreImages, options: Flat[PredictOptions] = PredictOptions()
) -> int:
    """Predict the classes of images, shared by any number of processes. Exit code 1: some images cannot be read, the
    others are predicted; 2: no image can be read.
    """
    from launcher.commands.model.predict.main import predict as predict_images

    return predict_images(run, [path, *paths], options)


def export(run: Run, /, *, options: Flat[ExportOptions]) -> int:
    """Export a run's model for other programs, with its classes and preprocessing inside, checked on real images."""
    from launcher.commands.model.export.main import export as export_run

    return export_run(run, options)


def explain(run: Run, path: Images, /, *paths: MoreImages, options: Flat[ExplainOptions] = ExplainOptions()) -> int:
    """Draw which pixels of an image are evidence for a class (red) and against it (blue), shared by any number of
    processes. Exit code 1: some images cannot be read, the others are explained; 2: no image can be read.
    """
    from launcher.commands.model.explain.main import explain as explain_images

    return explain_images(run, [path, *paths], options)


def sync(run: RunFolder, /, *runs: MoreRuns) -> int:
    """Send the records of runs that Weights & Biases lacks: those that were offline, dropped or refused."""
    return sync_runs([run, *runs])


def runs(*folders: Folder, as_json: AsJson = False) -> int:
    """List runs with status, progress, best validation and speed, the one with the newest record first."""
    return list_runs(folders, as_json)


def watch(run: RunFolder, /, *, once: Once = False) -> int:
    """Follow a run from another terminal until it ends."""
    return watch_run(run, once)


def compare(*runs: RunName, options: Flat[CompareOptions] = CompareOptions()) -> int:
    """Show what differs in the recipes of runs beside what differs in their results. Runs that differ only in their
    seed are one group.
    """
    from launcher.commands.runs.compare.main import compare as compare_runs

    return compare_runs(runs, options)


def ls() -> int:
    """List the features: backbone, split, view, size and age of each entry."""
    return list_features()


def rm(key: Key = None, /, *, everything: RemoveAll = False) -> int:
    """Remove features, and what killed runs left unfinished. A run that needs them computes them again."""
    return remove_features(key, everything)


COMMANDS = (
    *(check, fetch, show, probe, bench, tune, verify_resume, submit, schema),
    *(evaluate, predict, export, explain, runs, watch, compare, sync),
)

app = App(
    name="launcher",
    help="Train image classifiers on all available devices: `launcher RECIPE [key.path=value ...]`.",
    version=launcher.__version__,
    default_parameter=Parameter(negative=()),  # no --no-debug, no --empty-class
    suppress_keyboard_interrupt=False,
)
cache = App(name="cache", help="List and remove the features of frozen backbones, kept in data/features.")

app.default(train)
for command in COMMANDS:
    app.command(command)
for command in (ls, rm):
    cache.command(command)
app.command(cache)


def run(arguments: list[str] | None = None) -> int:
    """Run the command of these arguments, by default the process's own; return the exit code."""
    return run_app(app, arguments)
