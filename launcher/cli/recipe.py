"""Commands that take a recipe."""
# ruff: noqa: B008 - the options are frozen

from __future__ import annotations

import json

from launcher.cli.arguments import Flat, Override, RecipeFile
from launcher.commands.recipe.options import BenchOptions, CheckOptions, ShowOptions
from launcher.errors import EXIT_DONE
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from launcher.train.options import TrainOptions


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
    print(json.dumps(Recipe.model_json_schema(), indent=1))
    return EXIT_DONE
