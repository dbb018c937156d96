"""Verbs that look after runs and what they have left: list, follow, compare, send. None of them needs torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from launcher.commands.runs.feature_cache import list_features, remove_features
from launcher.commands.runs.list import list_runs
from launcher.commands.runs.sync import sync as sync_runs
from launcher.commands.runs.watch import watch as watch_run


def sync(run: Path, /, *runs: Path) -> int:
    """Send runs to Weights & Biases from their journals: what was offline, dropped or refused. What is there stays.

    Parameters
    ----------
    run
        A run's folder: `runs/NAME/DATE-...`.
    runs
        More of them.
    """
    return sync_runs([run, *runs])


def runs(*folders: Path, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> int:
    """List runs, the youngest first: status, progress, best figure, speed, age.

    Parameters
    ----------
    folders
        Where to look for them, or runs themselves. Left out: runs/.
    as_json
        Print a JSON list, for programs.
    """
    return list_runs(folders, as_json)


def watch(run: Path, /, *, once: Annotated[bool, Parameter(negative=())] = False) -> int:
    """Follow a run from another terminal until it ends.

    Parameters
    ----------
    run
        A run's folder: `runs/NAME/DATE-...`.
    once
        Show how it stands and leave.
    """
    return watch_run(run, once)


def compare(
    *runs: str,
    curves: Path | None = None,
    html: Path | None = None,
    wandb_report: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Show what differs in the recipes of runs beside what differs in their results. Runs that differ in nothing but
    their seed count together.

    Parameters
    ----------
    runs
        Run folders, globs, and of W&B: entity/project/run, the address of a run's page, group:NAME.
    curves
        Write a picture of losses, accuracy and learning rates to this PNG file.
    html
        Write a report that needs nothing else to this file.
    wandb_report
        Make a report in W&B, too, when all runs are of one project there.
    """
    from launcher.commands.runs.compare.main import Options
    from launcher.commands.runs.compare.main import compare as compare_runs

    return compare_runs(runs, Options(curves, html, wandb_report))


def ls() -> int:
    """List them: what each was made of, its size and its age."""
    return list_features()


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
