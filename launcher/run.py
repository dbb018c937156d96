"""The run folder: which one this command continues or makes, and that only one process group works in it."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.errors import RunError
from launcher.log.journal import read_journal
from launcher.recipe.lock import LOCK_NAME, find_differences, is_allowed, read_lock
from launcher.recipe.schema import Recipe

SUMMARY_NAME = "summary.json"
IN_USE = ".in-use"
FINISHED = ("done", "stopped")


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


def open_run(recipe: Recipe, fresh: bool = False, allowed: Iterable[str] = ()) -> RunFolder:
    """Continue the recipe's run, or make a new folder. `fresh`: always new; what is in the way is moved aside.

    Raise RunError when the folder is in use, is no run, or its recipe differs by more than the keys in `allowed`.
    """
    if recipe.run.dir is None:
        found = None if fresh else _find_unfinished(recipe)
        return found or _make(_new_path(recipe))
    path = Path(recipe.run.dir)
    if (path / LOCK_NAME).exists():
        return _move_aside(path) if fresh else _continue(path, recipe, tuple(allowed))
    if path.is_dir() and any(name.name not in (IN_USE, "logs") for name in path.iterdir()):
        raise RunError(f"{path}: is not a run folder and not empty; choose another run.dir")
    return _make(path)


def read_summary(path: Path) -> dict[str, Any]:
    """`summary.json`; {} when the run was cut off before it wrote one."""
    try:
        summary: dict[str, Any] = json.loads((path / SUMMARY_NAME).read_text())
    except (OSError, ValueError):
        return {}
    return summary


def _continue(path: Path, recipe: Recipe, allowed: tuple[str, ...]) -> RunFolder:
    in_use = _claim(path)
    if in_use is None:
        raise RunError(f"{path}: another process is running it; wait for it, or choose another run.dir")
    differences = find_differences(read_lock(path), recipe)
    refused = {key: values for key, values in differences.items() if not is_allowed(key, allowed)}
    if refused:
        os.close(in_use)
        shown = ", ".join(f"{key} {old!r} -> {new!r}" for key, (old, new) in refused.items())
        allow = " ".join(f"--allow-change {key}" for key in refused)
        raise RunError(f"{path}: its recipe has changed: {shown}; add {allow} to go on, or --fresh to start anew")
    finished = read_summary(path).get("status") in FINISHED and not differences
    return RunFolder(path, _read_id(path), "finished" if finished else "resumed", differences, in_use)


def _find_unfinished(recipe: Recipe) -> RunFolder | None:
    """The newest run of exactly this recipe that nobody is running and that has not finished."""
    for path in sorted(_home(recipe).glob(f"*/{LOCK_NAME}"), reverse=True):
        try:
            run = _continue(path.parent, recipe, ())
        except RunError:
            continue
        if run.state == "resumed":
            return run
        run.release()
    return None


def _make(path: Path) -> RunFolder:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{path}: cannot be made ({error.strerror}); choose another run.dir") from None
    in_use = _claim(path)
    if in_use is None:
        raise RunError(f"{path}: another process is running it; wait for it, or choose another run.dir")
    run = RunFolder(path, secrets.token_hex(4), "new", {}, in_use)
    for folder in (run.checkpoints, run.logs, run.pictures):
        folder.mkdir(exist_ok=True)
    return run


def _move_aside(path: Path) -> RunFolder:
    in_use = _claim(path)
    if in_use is None:
        raise RunError(f"{path}: another process is running it; wait for it, or choose another run.dir")
    path.rename(path.with_name(f"{path.name}.before-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"))
    os.close(in_use)
    return _make(path)


def remove_debug_run(path: Path) -> None:
    """A debug run is made anew every time, in a folder of its own."""
    shutil.rmtree(path, ignore_errors=True)


def debug_folder(recipe: Recipe) -> Path:
    return _home(recipe) / "debug"


def _home(recipe: Recipe) -> Path:
    return Path("runs") / str(recipe.run.name)


def _new_path(recipe: Recipe) -> Path:
    return _home(recipe) / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def _claim(path: Path) -> int | None:
    """An open, locked file; None when another process has it."""
    file = os.open(path / IN_USE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _read_id(path: Path) -> str:
    ids = [record["wandb_id"] for record in read_journal(path)[:1] if "wandb_id" in record]
    return str(ids[0]) if ids else secrets.token_hex(4)
