"""The search's folder: it holds one search, and one process at a time works in it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launcher.commands.jobs.tune.plan import SearchPlan
from launcher.commands.jobs.tune.search import LoadedSearch, Search, show_domain
from launcher.errors import RecipeError, RunError
from launcher.recipe.lock import find_differences, is_allowed
from launcher.recipe.parse import LoadedRecipe, render_recipe
from launcher.recipe.problem import Problem
from launcher.run.folder import FREE
from launcher.run.lock_file import IN_USE, claim
from shards.files import is_leftover, write_atomically

SEARCH_NAME = "search.json"


@contextmanager
def hold_folder(
    plan: SearchPlan, found: LoadedSearch, loaded: LoadedRecipe, overrides: Sequence[str]
) -> Iterator[None]:
    """Make the folder, and lock it for this process while the context lasts. Nothing is written through a link.

    `overrides`: those of `loaded`. Raise UserError when another process holds the folder, or when it has another
    search or other files.
    """
    if plan.folder.is_symlink():
        raise RunError(f"{plan.folder}: is a link, and a search writes through none; choose another --folder")
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{plan.folder}: cannot be made ({error.strerror}); choose another --folder") from None
    names = {each.name for each in plan.folder.iterdir() if not is_leftover(each.name)}
    if SEARCH_NAME not in names and names - {IN_USE}:  # a search killed before it wrote SEARCH_NAME leaves its lock
        raise RunError(f"{plan.folder}: is not a search's folder and not empty; choose another --folder")
    in_use = claim(plan.folder, "--folder")
    try:
        _check_same(plan.folder, found, loaded)
        kept = {"recipe": loaded.recipe.model_dump(mode="json"), **found.search.model_dump(mode="json")}
        write_atomically(plan.folder / SEARCH_NAME, f"{json.dumps(kept, indent=1)}\n".encode())
        copy = render_recipe(Path(loaded.file), overrides)
        write_atomically(plan.recipe_file, f"# recipe of all trials of {plan.name}\n{copy}".encode())
        yield
    finally:
        os.close(in_use)


def _check_same(folder: Path, found: LoadedSearch, loaded: LoadedRecipe) -> None:
    """A resumed search keeps its recipe and its ranges; `trials` may change."""
    path = folder / SEARCH_NAME
    if not path.exists():
        return
    before, recipe = _read_search(path)
    changed = [
        _changed(folder, key, json.dumps(old), json.dumps(new))
        for key, (old, new) in find_differences(recipe, loaded.recipe).items()
        if not is_allowed(key, FREE)
    ]
    errors = [*loaded.error(changed).lines, *found.error(_changes_of_search(folder, before, found.search)).lines]
    if errors:
        raise RecipeError(errors)


def _changes_of_search(folder: Path, before: Search, now: Search) -> Iterator[Problem]:
    for name in ("start", "seed", "stop_early"):
        old, new = getattr(before, name), getattr(now, name)
        if old != new:
            yield _changed(folder, name, json.dumps(old), json.dumps(new))
    for key in dict.fromkeys([*now.search, *before.search]):
        domains = before.search.get(key), now.search.get(key)
        if domains[0] != domains[1]:
            yield _changed(folder, f"search.{key}", *map(show_domain, domains))


def _changed(folder: Path, key: str, old: str, new: str) -> Problem:
    words = f"{new}, but {old} when the search in {folder} began"
    return Problem(key, f"{words}; restore it, or start another search with --folder")


def _read_search(path: Path) -> tuple[Search, dict[str, Any]]:
    """The search and the recipe that it began with."""
    try:
        kept = dict(json.loads(path.read_text()))
        return Search.from_plain({key: kept[key] for key in Search.model_fields}), dict(kept["recipe"])
    except (OSError, ValueError, TypeError, KeyError):
        raise RunError(f"{path}: damaged; remove its folder, or start another search with --folder") from None
