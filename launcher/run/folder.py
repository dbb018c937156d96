"""The run folder: the one that a command resumes, or the new one that it makes."""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.errors import RunError, nearest
from launcher.recipe.lock import LOCK_NAME, find_differences, flatten, is_allowed, read_lock
from launcher.recipe.schema import Recipe
from launcher.run.journal import JOURNAL_NAME, read_first
from launcher.run.lock_file import FOLDERS, IN_USE, claim
from shards.files import is_leftover

SUMMARY_NAME = "summary.json"
FINISHED = ("done", "early_stopped")
"""Statuses of a run that has nothing left to do."""
BEFORE_LOCK = {IN_USE, *FOLDERS, "wandb", JOURNAL_NAME, SUMMARY_NAME}
"""Names in the folder of a run that failed before its recipe was locked."""

FIXED = ("backbone",)
"""Keys that --allow-change cannot change: the checkpoints of a run are of one network with one frozen part."""
FREE = (
    *("data.workers", "data.decode", "data.cache", "data.cache_gib"),
    *("data.remote_cache", "data.remote_cache_gib", "data.remote_tries"),
    *("strategy.hang_timeout_s", "checkpoint.patience", "log.every"),
)
"""Keys that do not change the training: a run resumes with other values, and notes them."""

ASIDE = ".before-"
"""Part of the name of a folder that `--fresh` has moved out of the way."""
DEBUG = "debug-"
"""Start of the name of a debug run's folder."""
PROBE = "probe-"
"""Start of the name of a probe's folder."""
WANDB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Ids that are safe in the names of W&B's folders."""


class ChangedRecipeError(RunError):
    """The run was started with another recipe. `keys`: those that differ."""

    def __init__(self, path: Path, refused: dict[str, tuple[Any, Any]]) -> None:
        shown = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in refused.items())
        advice = "add " + " ".join(f"--allow-change {key}" for key in refused) + " to resume"
        if any(is_allowed(key, FIXED) for key in refused):
            advice = "the backbone of a run cannot change: put it back to resume"
        super().__init__(f"{path}: its recipe has changed: {shown}; {advice}, or --fresh to start anew")
        self.keys = tuple(refused)

    def __reduce__(self) -> tuple[type[RunError], tuple[str]]:
        return RunError, (str(self),)


@dataclass(frozen=True)
class RunFolder:
    """`id`: names the run to W&B through every resume. `state`: finished means that nothing is left to do."""

    path: Path
    id: str
    state: Literal["new", "resumed", "finished"]
    changes: dict[str, tuple[Any, Any]]
    """Allowed changes of the recipe since the run was locked: key -> (before, now)."""
    in_use: int
    """The open, locked file of `claim`. Rank 0's only."""

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def pictures(self) -> Path:
        return self.path / "pictures"

    def release(self) -> None:
        os.close(self.in_use)


def open_run(recipe: Recipe, fresh: bool = False, allowed: tuple[str, ...] = ()) -> RunFolder:
    """Resume the recipe's run, or make a new folder. `fresh`: always a new one; a run in its place is moved aside.

    Raise RunError when the folder is in use, is no run, or its recipe differs by more than the keys in `allowed`.
    """
    keys = flatten(recipe.model_dump(mode="json"))
    for name in allowed:
        if not any(is_allowed(key, [name]) for key in keys):
            raise RunError(f"--allow-change {name}: a recipe has no such key{nearest(name, keys)}")
    if recipe.run.dir is None:
        found = None if fresh else _resume_newest(recipe, allowed)
        return found or _make(_new_path(recipe))
    path = Path(recipe.run.dir)
    if (path / LOCK_NAME).exists():
        return _move_aside(path) if fresh else _resume(path, recipe, allowed)
    if not _is_free(path):
        raise RunError(f"{path}: is not a run folder and not empty; choose another run.dir")
    return _make(path)


def debug_folder(recipe: Recipe) -> Path:
    return _new_path(recipe, DEBUG)


def probe_folder(recipe: Recipe) -> Path:
    return _new_path(recipe, PROBE)


def read_summary(path: Path) -> dict[str, Any]:
    """`summary.json`; {} when the run was cut off before it wrote one."""
    return read_json(path / SUMMARY_NAME)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object; {} when there is no file, or a damaged one."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def read_id(path: Path) -> str | None:
    """The run's W&B id; None when the journal has none. Raise RunError for one that could lead out of the folder."""
    found = read_first(path).get("wandb_id")
    if found is not None and not (isinstance(found, str) and WANDB_ID.fullmatch(found)):
        raise RunError(f"{path}: its journal is damaged: {found!r} is no id of a W&B run; start anew with --fresh")
    return found


def _resume(path: Path, recipe: Recipe, allowed: tuple[str, ...]) -> RunFolder:
    in_use = claim(path)
    try:
        differences = find_differences(read_lock(path), recipe)
        refused = {
            key: values
            for key, values in differences.items()
            if is_allowed(key, FIXED) or not is_allowed(key, (*allowed, *FREE))
        }
        if refused:
            raise ChangedRecipeError(path, refused)
        run_id = read_id(path) or secrets.token_hex(4)
    except RunError:
        os.close(in_use)
        raise
    finished = read_summary(path).get("status") in FINISHED and set(differences) <= set(FREE)
    return RunFolder(path, run_id, "finished" if finished else "resumed", differences, in_use)


def _resume_newest(recipe: Recipe, allowed: tuple[str, ...]) -> RunFolder | None:
    """Resume the newest unfinished run of this recipe and seed that is not running; None when there is none.

    Raise RunError when the recipes of all unfinished runs differ by more than the keys in `allowed`.
    """
    refused: RunError | None = None
    locks = [path for path in _home(recipe).glob(f"*/{LOCK_NAME}") if not _is_set_apart(path.parent.name)]
    for path in sorted(locks, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        status = read_summary(path.parent).get("status")
        if status in FINISHED and not allowed:
            continue
        try:
            run = _resume(path.parent, recipe, allowed)
        except ChangedRecipeError as error:
            # Another seed is another run, and the recipe of a failed run had to change.
            if "run.seed" not in error.keys and status not in ("failed", *FINISHED):
                refused = refused or error
        except RunError:  # in use, or not readable
            continue
        else:
            if run.state == "resumed":
                return run
            run.release()
    if refused is not None:
        raise refused
    return None


def _is_set_apart(name: str) -> bool:
    """Whether it is a debug run, a probe or a run that `--fresh` moved aside: these never resume."""
    return ASIDE in name or name.startswith((DEBUG, PROBE))


def _is_free(path: Path) -> bool:
    """Whether it holds nothing, or only what a run leaves that failed before its recipe was locked."""
    if not path.is_dir():
        return True
    checkpoints = path / "checkpoints"
    names = {each.name for each in path.iterdir() if not is_leftover(each.name)}
    return names <= BEFORE_LOCK and not (checkpoints.exists() and any(checkpoints.iterdir()))


def _make(path: Path) -> RunFolder:
    try:
        path.mkdir(parents=True, exist_ok=True)
        in_use = claim(path)
        for name in FOLDERS:
            (path / name).mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror}); choose another run.dir") from None
    return RunFolder(path, secrets.token_hex(4), "new", {}, in_use)


def _move_aside(path: Path) -> RunFolder:
    in_use = claim(path)
    path = path.absolute()
    aside = path.with_name(f"{path.name}{ASIDE}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}")
    try:
        path.rename(aside)
    except OSError as error:
        raise RunError(f"{path}: cannot be moved aside ({error.strerror}); choose another run.dir") from None
    finally:
        os.close(in_use)
    return _make(path)


def _home(recipe: Recipe) -> Path:
    return Path("runs") / str(recipe.run.name)


def _new_path(recipe: Recipe, prefix: str = "") -> Path:
    return _home(recipe) / f"{prefix}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"
