"""The run folder: which one this command continues or makes, and that only one process group works in it."""

from __future__ import annotations

import fcntl
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
from shards.manifest import is_leftover

SUMMARY_NAME = "summary.json"
IN_USE = ".in-use"
FINISHED = ("done", "stopped")
BEFORE_LOCK = {IN_USE, "logs", "checkpoints", "pictures", "wandb", JOURNAL_NAME, SUMMARY_NAME}
FIXED = ("backbone",)
"""What --allow-change does not free: best and last checkpoint of a run are of one network with the same frozen part."""
FREE = (
    "data.workers",
    "data.decode",
    "data.cache",
    "data.cache_gib",
    "data.remote_cache",
    "data.remote_cache_gib",
    "data.remote_tries",
    "strategy.hang_timeout_s",
    "checkpoint.patience",
    "log.every",
)
"""Keys that change nothing of what is trained: a run goes on with other values, and notes them."""
ASIDE = ".before-"
"""In the name of a folder that `--fresh` has moved out of the way."""
DEBUG = "debug-"
"""Begins the name of a debug run's folder."""
WANDB_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""It is also in names of folders."""
PROBE = "probe-"
"""Begins the name of a probe's folder."""


class ChangedRecipeError(RunError):
    """The run was begun with another recipe. `keys`: those that differ."""

    def __init__(self, path: Path, refused: dict[str, tuple[Any, Any]]) -> None:
        shown = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in refused.items())
        go_on = "add " + " ".join(f"--allow-change {key}" for key in refused) + " to go on"
        if any(is_allowed(key, FIXED) for key in refused):
            go_on = "a run keeps its backbone: put that back to go on"
        super().__init__(f"{path}: its recipe has changed: {shown}; {go_on}, or --fresh to start anew")
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
    """Open file whose lock marks the folder as in use: it ends with the process, however that ends. Rank 0's only."""

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
    """Continue the recipe's run, or make a new folder. `fresh`: always new; what is in the way is moved aside.

    Raise RunError when the folder is in use, is no run, or its recipe differs by more than the keys in `allowed`.
    """
    keys = flatten(recipe.model_dump(mode="json"))
    for name in allowed:
        if not any(is_allowed(key, [name]) for key in keys):
            raise RunError(f"--allow-change {name}: a recipe has no such key{nearest(name, keys)}")
    if recipe.run.dir is None:
        found = None if fresh else _find_unfinished(recipe, allowed)
        return found or _make(_new_path(recipe))
    path = Path(recipe.run.dir)
    if (path / LOCK_NAME).exists():
        return _move_aside(path) if fresh else _continue(path, recipe, allowed)
    if not _is_free(path):
        raise RunError(f"{path}: is not a run folder and not empty; choose another run.dir")
    return _make(path)


def _is_free(path: Path) -> bool:
    """Whether nothing that counts is in it, only what a run leaves that failed before its recipe was locked."""
    if not path.is_dir():
        return True
    checkpoints = path / "checkpoints"
    names = {each.name for each in path.iterdir() if not is_leftover(each.name)}
    return names <= BEFORE_LOCK and not (checkpoints.exists() and any(checkpoints.iterdir()))


def read_summary(path: Path) -> dict[str, Any]:
    """`summary.json`; {} when the run was cut off before it wrote one."""
    try:
        summary: dict[str, Any] = json.loads((path / SUMMARY_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return summary


def _continue(path: Path, recipe: Recipe, allowed: tuple[str, ...]) -> RunFolder:
    in_use = claim(path)
    try:
        differences = find_differences(read_lock(path), recipe)
        _check_changes(path, differences, allowed)
        run_id = read_id(path) or secrets.token_hex(4)
    except RunError:
        os.close(in_use)
        raise
    finished = read_summary(path).get("status") in FINISHED and set(differences) <= set(FREE)
    return RunFolder(path, run_id, "finished" if finished else "resumed", differences, in_use)


def _check_changes(path: Path, differences: dict[str, tuple[Any, Any]], allowed: tuple[str, ...]) -> None:
    refused = {
        key: values
        for key, values in differences.items()
        if is_allowed(key, FIXED) or not is_allowed(key, (*allowed, *FREE))
    }
    if refused:
        raise ChangedRecipeError(path, refused)


def _find_unfinished(recipe: Recipe, allowed: tuple[str, ...]) -> RunFolder | None:
    """The newest unfinished run of this recipe and seed that nobody is running.

    Raise RunError when there are only such of a recipe that has changed by more than the keys in `allowed`.
    """
    refused: RunError | None = None
    locks = [path for path in _home(recipe).glob(f"*/{LOCK_NAME}") if not _is_set_apart(path.parent.name)]
    for path in sorted(locks, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        status = read_summary(path.parent).get("status")
        if status in FINISHED and not allowed:
            continue
        try:
            run = _continue(path.parent, recipe, allowed)
        except ChangedRecipeError as error:
            # Another seed is another run, and what failed was to be changed.
            if "run.seed" not in error.keys and status not in ("failed", *FINISHED):
                refused = refused or error
        except RunError:  # in use, or not to be read
            continue
        else:
            if run.state == "resumed":
                return run
            run.release()
    if refused is not None:
        raise refused
    return None


def _is_set_apart(name: str) -> bool:
    """Debug runs, probes and what `--fresh` moved away are never gone on with."""
    return ASIDE in name or name.startswith((DEBUG, PROBE))


def _make(path: Path) -> RunFolder:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror}); choose another run.dir") from None
    in_use = claim(path)
    run = RunFolder(path, secrets.token_hex(4), "new", {}, in_use)
    for folder in (run.checkpoints, run.logs, run.pictures):
        folder.mkdir(exist_ok=True)
    return run


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


def debug_folder(recipe: Recipe) -> Path:
    return _new_path(recipe, DEBUG)


def probe_folder(recipe: Recipe) -> Path:
    return _new_path(recipe, PROBE)


def _home(recipe: Recipe) -> Path:
    return Path("runs") / str(recipe.run.name)


def _new_path(recipe: Recipe, prefix: str = "") -> Path:
    return _home(recipe) / f"{prefix}{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def claim(path: Path, option: str = "run.dir") -> int:
    """An open, locked file. Raise RunError when another process has it, or a link leads out of the folder.

    `option`: what a user changes for another folder.
    """
    _check_links(path, option)
    try:
        file = os.open(path / IN_USE, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror}); choose another {option}") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        raise RunError(f"{path}: another process is running it; wait for it, or choose another {option}") from None
    except OSError as error:
        os.close(file)
        raise RunError(f"{path}: cannot be locked ({error.strerror}); choose a {option} on another disk") from None
    return file


def _check_links(path: Path, option: str) -> None:
    """Whoever else can write where runs are kept could have this one write elsewhere, by a link.

    Links above the run folder are the user's own, as to a larger disk. `last` and `best` are ours, and lead to a
    neighbour.
    """
    try:
        inside = [each for folder in (path, *_parts(path)) if folder.is_dir() for each in folder.iterdir()]
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}); choose another {option}") from None
    for each in (path, *inside):
        if each.is_symlink() and not (each.parent == path / "checkpoints" and len(each.readlink().parts) == 1):
            raise RunError(f"{each}: is a link; a run writes through none: remove it, or choose another {option}")


def _parts(path: Path) -> list[Path]:
    return [path / name for name in ("checkpoints", "logs", "pictures")]


def read_id(path: Path) -> str | None:
    """What names the run to W&B; None where the journal does not say. Raise RunError when that is no name."""
    found = read_first(path).get("wandb_id")
    if found is not None and not (isinstance(found, str) and WANDB_ID.fullmatch(found)):
        raise RunError(f"{path}: its journal is damaged: {found!r} names no W&B run; start anew with --fresh")
    return found
