"""The search's folder: one search, and one process at a time that works in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.errors import RunError
from launcher.run import IN_USE, claim
from launcher.tune.attempt import Task
from launcher.tune.search import Search
from shards.manifest import write_atomically

SEARCH_NAME = "search.json"
BEFORE_SEARCH = {IN_USE, f".{SEARCH_NAME}.tmp"}
"""What a search leaves that was killed before it was kept."""


@contextmanager
def hold_folder(task: Task, search: Search) -> Iterator[None]:
    """The folder is this process's until it ends, however that ends. Nothing is written through a link.

    Raise RunError when another process has it, or it holds something else.
    """
    if task.folder.is_symlink():
        raise RunError(f"{task.folder}: is a link; a search writes through none: choose another place with --folder")
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{task.folder}: cannot be made ({error.strerror}); choose another --folder") from None
    if not (task.folder / SEARCH_NAME).exists() and {each.name for each in task.folder.iterdir()} - BEFORE_SEARCH:
        raise RunError(f"{task.folder}: holds something else; choose another place with --folder")
    in_use = claim(task.folder, "--folder")
    try:
        _keep(task, search)
        yield
    finally:
        os.close(in_use)


def _keep(task: Task, search: Search) -> None:
    """A folder holds one search. Its number of trials may grow."""
    path = task.folder / SEARCH_NAME
    kept = {"recipe": str(task.recipe_file), "overrides": [*task.overrides], **search.model_dump(mode="json")}
    if path.exists():
        before = _read_search(path)
        differing = [key for key in kept if key != "trials" and before.get(key) != kept[key]]
        if differing:
            words = f"{path}: holds a search that differs in {', '.join(differing)}"
            raise RunError(f"{words}; choose another place with --folder, or remove it")
    write_atomically(path, f"{json.dumps(kept, indent=1)}\n".encode())


def _read_search(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        raise RunError(f"{path}: damaged; remove its folder to search anew, or choose another with --folder") from None
