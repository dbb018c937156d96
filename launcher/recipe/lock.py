"""`recipe.lock.yaml`: the recipe of a run with every value written out; itself a valid recipe."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.errors import RunError
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import YamlError, read_yaml, render_yaml
from shards.files import write_atomically

LOCK_NAME = "recipe.lock.yaml"

Flat = dict[str, Any]


def write_lock(folder: Path, recipe: Recipe, header: str) -> None:
    """`header`: lines about the run, written as comments above the recipe."""
    comments = "".join(f"# {line}\n" for line in header.splitlines())
    write_atomically(folder / LOCK_NAME, (comments + render_yaml(recipe.model_dump(mode="json"))).encode())


def read_lock(folder: Path) -> dict[str, Any]:
    """The locked recipe as plain data. Raise RunError when the file is missing or damaged."""
    path = folder / LOCK_NAME
    try:
        data, _ = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise RunError(f"{path}: cannot be read ({error}); omit this run, or train it again with --fresh") from None
    if not isinstance(data, dict):
        raise RunError(f"{path}: not a recipe; omit this run, or train it again with --fresh")
    return data


def find_differences(locked: dict[str, Any], recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in the lock, value now) of every key that differs, except `run.dir`.

    A key that the lock does not have yet counts as its default.
    """
    old, new = flatten(with_defaults(locked)), flatten(recipe.model_dump(mode="json"))
    changed = [key for key in old | new if old.get(key) != new.get(key) and key != "run.dir"]
    return {key: (old.get(key), new.get(key)) for key in changed}


def with_defaults(locked: dict[str, Any]) -> dict[str, Any]:
    """`locked` with every default written out; unchanged when it is not a valid recipe of this version."""
    try:
        return Recipe.from_plain(locked).model_dump(mode="json")
    except ValidationError:
        return locked


def is_allowed(key: str, allowed: Iterable[str]) -> bool:
    """Whether `allowed` names `key` or a section around it."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def flatten(data: Any, prefix: str = "") -> Flat:
    """Nested mappings as one mapping with dotted keys; lists are values."""
    if not isinstance(data, dict):
        return {prefix: data}
    flat: Flat = {}
    for key, value in data.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
