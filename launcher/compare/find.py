"""Run folders from what the command line names: folders, and globs that no shell has expanded."""

from __future__ import annotations

import glob
import re
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import RunError
from launcher.log.journal import JOURNAL_NAME
from launcher.recipe.lock import LOCK_NAME

_WANDB = re.compile(r"(wandb:|https?://)\S+|[\w.-]+/[\w.-]+/[\w-]+")


def find_folders(names: Sequence[str]) -> list[Path]:
    """Each once, in the order given. Raise RunError for a name that leads to no run, and for fewer than two."""
    found: dict[Path, Path] = {}
    for name in names:
        for folder in _expand(name):
            found.setdefault(folder.resolve(), folder)
    if len(found) < 2:
        what = "".join(f"{folder} is a single run" for folder in found.values()) or "no run is named"
        raise RunError(f"compare: {what}; give two or more, or a glob: 'runs/NAME/*'")
    return list(found.values())


def _expand(name: str) -> list[Path]:
    folder = Path(name)
    if folder.is_dir():
        if not _is_training(folder):
            raise RunError(f"{name}: no run's folder: needs {LOCK_NAME} and {JOURNAL_NAME}; give runs/NAME/DATE-...")
        return [folder]
    if glob.has_magic(name):
        matches = [path for path in map(Path, sorted(glob.glob(name, recursive=True))) if _is_training(path)]  # noqa: PTH207  # absolute patterns too
        if not matches:
            raise RunError(f"{name}: matches no run; launcher runs lists those that are there")
        return matches
    if _WANDB.fullmatch(name) and not Path(folder.parts[0]).exists():
        raise RunError(f"{name}: runs of W&B cannot be compared; give run folders, runs/NAME/DATE-...")
    raise RunError(f"{name}: no such run; launcher runs lists those that are there")


def _is_training(folder: Path) -> bool:
    """Probes keep no journal."""
    return (folder / LOCK_NAME).is_file() and (folder / JOURNAL_NAME).is_file()
