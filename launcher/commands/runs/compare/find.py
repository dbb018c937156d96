"""The runs that the command line names: folders, globs that no shell has expanded, and runs and groups of W&B."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.errors import RunError, nearest_path
from launcher.recipe.lock import LOCK_NAME
from launcher.run.credentials import has_wandb_credentials
from launcher.run.journal import JOURNAL_NAME
from launcher.run.wandb import fetch_runs, quiet_wandb, stop_service
from launcher.text import first_line

_WANDB = re.compile(r"([\w.-]+/[\w.-]+/)?group:.+|[\w.-]+/[\w.-]+/[\w-]+")
_WANDB_PAGE = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+)/runs/([\w-]+)([/?].*)?")


@dataclass(frozen=True)
class FoundRun:
    """`folder`: holds its files. `name`: its folder or W&B path, for people. `state`: W&B's word; "" for a folder."""

    folder: Path
    name: str
    state: str = ""


def find_runs(names: Sequence[str], store: Path) -> list[FoundRun]:
    """Each run once, in the order given; W&B's files come below the folder `store`.

    Raise RunError for a name without a run, and for fewer than two runs.
    """
    found: dict[Path, FoundRun] = {}
    for name in names:
        for run in _expand(name, store):
            found.setdefault(run.folder.resolve(), run)
    if len(found) < 2:
        what = "".join(f"{run.name} is a single run" for run in found.values()) or "no run is named"
        raise RunError(f"compare: {what}; give two or more, or a glob: 'runs/NAME/*'")
    return list(found.values())


def _expand(name: str, store: Path) -> list[FoundRun]:
    folder = Path(name)
    if folder.is_dir():
        if not _has_run(folder):
            raise RunError(f"{name}: not a run folder: needs {LOCK_NAME} and {JOURNAL_NAME}; give runs/NAME/DATE-...")
        return [FoundRun(folder, name)]
    if path := _read_wandb_path(name):
        return _fetch(name, path, store)
    if glob.has_magic(name):
        matches = [path for path in sorted(glob.glob(name, recursive=True)) if _has_run(Path(path))]  # noqa: PTH207  # absolute patterns too
        if not matches:
            raise RunError(f"{name}: matches no run; launcher runs lists the runs there are")
        return [FoundRun(Path(match), match) for match in matches]
    raise RunError(f"{name}: no such run; launcher runs lists the runs there are{nearest_path(folder)}")


def _read_wandb_path(name: str) -> str | None:
    """`entity/project/id`, or a group; None for a name that is rather a file's path."""
    if page := _WANDB_PAGE.fullmatch(name):
        return f"{page[1]}/{page[2]}"
    is_path = _WANDB.fullmatch(name) and (name.startswith("group:") or not Path(Path(name).parts[0]).exists())
    return name if is_path else None


def _fetch(name: str, path: str, store: Path) -> list[FoundRun]:
    """Raise RunError when W&B fails, or has no journal of a run."""
    if not has_wandb_credentials(os.environ):
        raise RunError(f"{name}: no such folder, and no credentials for W&B; run 'wandb login', or set WANDB_API_KEY")
    quiet_wandb()
    try:
        runs = fetch_runs(path, store)
    except (Exception, SystemExit) as error:
        raise RunError(f"{name}: no such folder, and W&B cannot give it ({first_line(error)})") from None
    finally:
        stop_service()
    if not runs:
        raise RunError(f"{name}: W&B has no run of this group; give entity/project/group:NAME")
    for run in runs:
        if not _has_run(run.folder):
            raise RunError(f"{run.path}: W&B has no {JOURNAL_NAME} of it; after its end, launcher sync sends it")
    return [FoundRun(run.folder, run.path, run.state) for run in runs]


def _has_run(folder: Path) -> bool:
    return (folder / LOCK_NAME).is_file() and (folder / JOURNAL_NAME).is_file()
