"""Verbs before and during a training. What a person types of each is its signature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from launcher.errors import EXIT_DONE
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe


def train(
    recipe: Path,
    /,
    *overrides: str,
    debug: Annotated[bool, Parameter(negative=())] = False,
    fresh: Annotated[bool, Parameter(negative=())] = False,
    allow_change: Annotated[tuple[str, ...], Parameter(negative=())] = (),
) -> int:
    """Train. The same command again continues the same run.

    Parameters
    ----------
    recipe
        A YAML file; see recipes/.
    overrides
        Values to change, as `key.path=value`.
    debug
        One CPU process, a handful of batches, every check on, no W&B.
    fresh
        Start anew even when an unfinished run of this recipe is there.
    allow_change
        Continue although this key of the recipe has changed; may be given several times.
    """
    from launcher.train.main import Options, main

    return main(load_recipe(recipe, overrides), Options(debug, fresh, allow_change))


def check(
    recipe: Path,
    /,
    *overrides: str,
    processes: int | None = None,
    nodes: int = 1,
    gpus_per_node: int = 1,
    rank: int | None = None,
) -> int:
    """Read the recipe and the manifest of its shards, and print the plan. Trains nothing, downloads nothing.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    processes
        How many processes will train, all on one node.
    nodes
        How many nodes will train, instead of --processes.
    gpus_per_node
        How many processes on each of them.
    rank
        Show all samples of this process's first batch.
    """
    from launcher.commands.recipe.check import Options
    from launcher.commands.recipe.check import check as check_recipe

    return check_recipe(load_recipe(recipe, overrides), Options(processes, nodes, gpus_per_node, rank))


def fetch(recipe: Path, /, *overrides: str) -> int:
    """Download and pack what the recipe needs, on a machine that has a network, for others that have none.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    """
    from launcher.commands.recipe.fetch import fetch as fetch_recipe

    return fetch_recipe(load_recipe(recipe, overrides))


def show(
    recipe: Path, /, *overrides: str, images: int = 6, views: int = 6, output: Path = Path("augmented.png")
) -> int:
    """Write a picture of training images beside what augmentation makes of them, as the network will see them.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    images
        How many training images, a row each: the first of the first epoch.
    views
        How many augmented views of each: those of the first epochs.
    output
        The PNG file.
    """
    from launcher.commands.recipe.show import show as show_recipe

    return show_recipe(load_recipe(recipe, overrides), images, views, output)


def probe(recipe: Path, /, *overrides: str) -> int:
    """Logistic regression on what the recipe's backbone, all of it frozen, makes of the images. Trains no network.

    Parameters
    ----------
    recipe
        A YAML file. What it says about head, freezing and training does not matter here.
    overrides
        Values to change, as `key.path=value`.
    """
    from launcher.commands.recipe.probe.main import probe as probe_recipe

    return probe_recipe(load_recipe(recipe, overrides))


def bench(recipe: Path, /, *overrides: str, seconds: float = 20.0, processes: int = 1) -> int:
    """Measure reading, decoding, augmentation, the whole input and the network here, each alone. Keeps nothing.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    seconds
        How long to measure, all stages together.
    processes
        How many processes will train on this machine and share its cores and the batch; one of them is measured.
    """
    from launcher.commands.recipe.bench.main import bench as bench_recipe

    return bench_recipe(load_recipe(recipe, overrides), seconds, processes)


def schema() -> int:
    """Print the JSON schema of recipes, for editors."""
    print(json.dumps(Recipe.model_json_schema(), indent=1))
    return EXIT_DONE
