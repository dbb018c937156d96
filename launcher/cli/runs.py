"""Commands that take run folders: list, watch, compare, sync; and the feature cache. None of them needs torch."""
# ruff: noqa: B008 - the options are frozen

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from launcher.cli.arguments import Flat
from launcher.commands.runs.feature_cache import list_features, remove_features
from launcher.commands.runs.list import list_runs
from launcher.commands.runs.options import CompareOptions
from launcher.commands.runs.sync import sync as sync_runs
from launcher.commands.runs.watch import watch as watch_run

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


def sync(run: RunFolder, /, *runs: MoreRuns) -> int:
    """Send what Weights & Biases lacks of runs, from their journals: records that were offline, dropped or refused."""
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
