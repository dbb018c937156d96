"""The command line. A bare recipe means: train."""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

import launcher
from launcher.cache import list_features, remove_features
from launcher.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_RESUMABLE,
    EXIT_USER_ERROR,
    DataError,
    FetchError,
    LauncherError,
    Stopped,
    UserError,
)
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from launcher.world import World, read_world
from shards.manifest import ShardsError

HOLD_BACK_S = 3.0
"""A launcher ends all ranks when one ends: those that fail in the same words leave rank 0 the time to say them."""

PEER_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")
"""What gloo and NCCL say on a rank when it is another that has failed."""

app = App(
    name="launcher",
    help="Train image classifiers on every device there is: `launcher RECIPE [key.path=value ...]`.",
    version=launcher.__version__,
    suppress_keyboard_interrupt=False,
)


@app.default
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
    from launcher.train import Options, main

    return main(load_recipe(recipe, overrides), Options(debug, fresh, allow_change))


@app.command
def check(recipe: Path, /, *overrides: str, processes: int = 1) -> int:
    """Read the recipe and the manifest of its shards, and print the plan. Trains nothing, downloads nothing.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    processes
        How many processes will train.
    """
    from launcher.check import check as check_recipe

    return check_recipe(load_recipe(recipe, overrides), processes)


@app.command
def fetch(recipe: Path, /, *overrides: str) -> int:
    """Download and pack what the recipe needs, on a machine that has a network, for others that have none.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    """
    from launcher.fetch import fetch as fetch_recipe

    return fetch_recipe(load_recipe(recipe, overrides))


@app.command
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
    from launcher.show import show as show_recipe

    return show_recipe(load_recipe(recipe, overrides), images, views, output)


@app.command
def probe(recipe: Path, /, *overrides: str) -> int:
    """Logistic regression on what the recipe's backbone, all of it frozen, makes of the images. Trains no network.

    Parameters
    ----------
    recipe
        A YAML file. What it says about head, freezing and training does not matter here.
    overrides
        Values to change, as `key.path=value`.
    """
    from launcher.probe.main import probe as probe_recipe

    return probe_recipe(load_recipe(recipe, overrides))


@app.command
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
    from launcher.bench.main import bench as bench_recipe

    return bench_recipe(load_recipe(recipe, overrides), seconds, processes)


cache = App(name="cache", help="What frozen backbones have made of images, kept in data/features.")
app.command(cache)


@cache.command
def ls() -> int:
    """List them: what each was made of, its size and its age."""
    return list_features()


@cache.command
def rm(key: str | None = None, /, *, everything: Annotated[bool, Parameter(name="--all", negative=())] = False) -> int:
    """Remove features, and what computations that did not end have left. A run that needs them computes them anew.

    Parameters
    ----------
    key
        Which: the beginning of a key of `launcher cache ls`.
    everything
        All of them.
    """
    return remove_features(key, everything)


@app.command
def schema() -> int:
    """Print the JSON schema of recipes, for editors."""
    print(json.dumps(Recipe.model_json_schema(), indent=1))
    return EXIT_DONE


def run(arguments: list[str] | None = None) -> int:
    """Run one command; errors become messages and exit codes here and nowhere else."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, verbose=False, result_action="return_value")
    except CycloptsError as error:
        return _explain(UserError(" ".join(str(error).split()) + " See launcher --help."))
    except Stopped as error:
        print(f"launcher: {error}", file=sys.stderr, flush=True)
        return EXIT_RESUMABLE
    except (LauncherError, ShardsError) as error:
        return _explain(error)
    except KeyboardInterrupt:
        return EXIT_FAILED
    except Exception:
        return _show_traceback()
    return int(code or 0)


def _explain(error: Exception) -> int:
    """One line a problem, said by the first rank of each node; what one rank cannot read or fetch, by that rank."""
    if _world().local_rank == 0 or isinstance(error, DataError | FetchError):
        for line in str(error).splitlines():
            print(f"launcher: {line}", file=sys.stderr, flush=True)
    else:
        time.sleep(HOLD_BACK_S)
    return EXIT_USER_ERROR if isinstance(error, UserError | ShardsError) else EXIT_FAILED


def _show_traceback() -> int:
    """The rank's own failure, last of all it says."""
    text, rank = traceback.format_exc(), _world().rank
    if any(words in text for words in PEER_LOST):
        print(
            f"launcher: rank {rank} lost another rank, which has failed; the same command goes on",
            file=sys.stderr,
            flush=True,
        )
        time.sleep(HOLD_BACK_S)
    else:
        print(f"launcher: rank {rank} failed:\n{text}", file=sys.stderr, flush=True)
    return EXIT_FAILED


def _world() -> World:
    try:
        return read_world(os.environ)
    except UserError:
        return World()
