"""The search's folder: one search, and one process at a time that works in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.commands.jobs.tune.search import LoadedSearch, Search, Span, Value
from launcher.commands.jobs.tune.trial import Task
from launcher.errors import RecipeError, RunError
from launcher.recipe.lock import find_differences, is_allowed
from launcher.recipe.parse import LoadedRecipe, render_recipe
from launcher.recipe.problem import Problem
from launcher.run.folder import FREE, IN_USE, claim
from shards.manifest import is_leftover, write_atomically

SEARCH_NAME = "search.json"


@contextmanager
def hold_folder(
    task: Task, found: LoadedSearch, loaded: LoadedRecipe, overrides: Sequence[str], say: Callable[[str], None]
) -> Iterator[None]:
    """The folder is this process's until it ends, however that ends. Nothing is written through a link.

    `overrides`: those `loaded` was read with. Raise UserError when another process has the folder, or it holds
    another search or something else.
    """
    if task.folder.is_symlink():
        raise RunError(f"{task.folder}: is a link; a search writes through none: choose another place with --folder")
    try:
        task.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{task.folder}: cannot be made ({error.strerror}); choose another --folder") from None
    names = {each.name for each in task.folder.iterdir() if not is_leftover(each.name)}
    if SEARCH_NAME not in names and names - {IN_USE}:  # a search that was killed before it was kept leaves its lock
        raise RunError(f"{task.folder}: holds something else; choose another place with --folder")
    in_use = claim(task.folder, "--folder")
    try:
        _keep(task, found, loaded, say)
        copy = render_recipe(Path(loaded.file), overrides)
        write_atomically(task.recipe_file, f"# of all trials of {task.name}\n{copy}".encode())
        yield
    finally:
        os.close(in_use)


def _keep(task: Task, found: LoadedSearch, loaded: LoadedRecipe, say: Callable[[str], None]) -> None:
    """A folder holds one search, of one recipe. Its number of trials may grow."""
    path = task.folder / SEARCH_NAME
    if path.exists():
        before, recipe = _read_search(path)
        if not isinstance(recipe, dict):
            say(f"note: {path} does not say which recipe the search began with: it is not compared")
            recipe = loaded.recipe.model_dump(mode="json")
        changes = find_differences(recipe, loaded.recipe)
        errors = [
            *loaded.error(
                _changed(task, key, json.dumps(old), json.dumps(new))
                for key, (old, new) in changes.items()
                if not is_allowed(key, FREE)
            ).lines,
            *found.error(_changes_of_search(task, before, found.search)).lines,
        ]
        if errors:
            raise RecipeError(errors)
    kept = {"recipe": loaded.recipe.model_dump(mode="json"), **found.search.model_dump(mode="json")}
    write_atomically(path, f"{json.dumps(kept, indent=1)}\n".encode())


def _changes_of_search(task: Task, before: Search, now: Search) -> Iterator[Problem]:
    for name in ("start", "seed", "stop_early"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            yield _changed(task, name, json.dumps(old), json.dumps(new))
    for key in dict.fromkeys([*now.search, *before.search]):
        old, new = before.search.get(key), now.search.get(key)
        if old != new:
            yield _changed(task, f"search.{key}", _show(old), _show(new))


def _changed(task: Task, key: str, old: str, new: str) -> Problem:
    words = f"{new}, but {old} when the search in {task.folder} began"
    return Problem(key, f"{words}; put that back, or search anew in another place with --folder", (key,))


def _show(domain: Span | Sequence[Value] | None) -> str:
    """As a search file has it."""
    if domain is None:
        return "not there"
    if not isinstance(domain, Span):
        return json.dumps(domain)
    given = domain.model_dump(exclude_defaults=True)
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in given.items()) + "}"


def _read_search(path: Path) -> tuple[Search, Any]:
    """The search and the recipe that it began with; a string or None where that was not kept."""
    try:
        kept = dict(json.loads(path.read_text()))
        search = Search.model_validate_json(json.dumps({key: kept[key] for key in Search.model_fields}))
    except (OSError, ValueError, TypeError, KeyError):
        raise RunError(f"{path}: damaged; remove its folder to search anew, or choose another with --folder") from None
    return search, kept.get("recipe")
