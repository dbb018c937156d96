"""`recipe.lock.yaml`: the recipe of a run with every value written out. It is itself a recipe."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.errors import RunError
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import YamlError, read_yaml, render_yaml
from shards.manifest import write_atomically

LOCK_NAME = "recipe.lock.yaml"

Flat = dict[str, Any]


def write_lock(folder: Path, recipe: Recipe, header: str) -> None:
    """`header`: lines of facts about the run, written as comments above the recipe."""
    comments = "".join(f"# {line}\n" for line in header.splitlines())
    write_atomically(folder / LOCK_NAME, (comments + render_yaml(recipe.model_dump(mode="json"))).encode())


def read_lock(folder: Path) -> dict[str, Any]:
    """The locked recipe as plain data. Raise RunError when it is missing or damaged."""
    path = folder / LOCK_NAME
    try:
        data, _ = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, YamlError) as error:
        raise RunError(f"{path}: cannot be read ({error}); leave this run out, or train it anew with --fresh") from None
    if not isinstance(data, dict):
        raise RunError(f"{path}: not a recipe; leave this run out, or train it anew with --fresh")
    return data


def find_differences(locked: dict[str, Any], recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in the lock, value now), for every key that differs; `run.dir` names the run and never counts.

    A key younger than the lock had its default then.
    """
    old, new = flatten(with_defaults(locked)), flatten(recipe.model_dump(mode="json"))
    keys = [*old, *(key for key in new if key not in old)]
    return {key: (old.get(key), new.get(key)) for key in keys if old.get(key) != new.get(key) and key != "run.dir"}


def with_defaults(locked: dict[str, Any]) -> dict[str, Any]:
    """As locked where today's recipes do not read it: each of its keys then counts as it stands."""
    try:
        return Recipe.model_validate_json(json.dumps(locked)).model_dump(mode="json")
    except ValidationError:
        return locked


def is_allowed(key: str, allowed: Iterable[str]) -> bool:
    """Whether `key` or a section around it is named in `allowed`."""
    return any(key == name or key.startswith(f"{name}.") for name in allowed)


def flatten(data: Any, prefix: str = "") -> Flat:
    """Nested mappings as one, with dotted keys; lists are values."""
    if not isinstance(data, dict):
        return {prefix: data}
    flat: Flat = {}
    for key, value in data.items():
        flat.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return flat
