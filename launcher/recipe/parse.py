"""A recipe file and its overrides -> a checked Recipe, or every problem at once, each with its place."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from launcher.errors import RecipeError, nearest
from launcher.recipe.lint import find_contradictions
from launcher.recipe.messages import SchemaProblems, explain
from launcher.recipe.problem import Problem
from launcher.recipe.resolve import resolve_recipe
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import MAX_CHARACTERS, Lines, YamlError, join, read_yaml, render_yaml

Data = dict[str, Any]

_SIZE_1 = [{"op": "center_crop", "size": 1}]
PLAIN: Data = {
    "backbone": {"name": "lenet"},
    "data": {"source": "digits"},
    "augment": {"train": _SIZE_1, "eval": _SIZE_1},
    "optim": {"name": "sgd", "lr": 1.0},
    "train": {"epochs": 1, "global_batch": 1},
}
"""Replaces required sections with too many errors, so that contradictions among the others are still found."""


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and the place of each of its keys."""

    recipe: Recipe
    file: str
    lines: Lines
    overridden: frozenset[str]
    """Keys given on the command line."""

    def error(self, problems: Iterable[Problem]) -> RecipeError:
        """The problems as one error, a line each: `file:line: path: message`."""
        return RecipeError([locate(self.file, self.lines, self.overridden, problem) for problem in problems])


def load_recipe(file: Path, overrides: Iterable[str] = ()) -> LoadedRecipe:
    """Read `file`, apply `key.path=value` overrides, check everything. Raise RecipeError, a line for every problem."""
    data, lines = _read_file(file)
    messages: list[str] = []
    names: set[str] = set()
    for text in overrides:
        try:
            names.add(_override(data, text))
        except RecipeError as error:
            messages += error.lines
    overridden = frozenset(names)
    recipe, problems = _validate(data)
    messages += [locate(str(file), lines, overridden, problem) for problem in problems]
    if messages:
        raise RecipeError(list(dict.fromkeys(messages)))
    return LoadedRecipe(resolve_recipe(recipe, file.name), str(file), lines, overridden)


def render_recipe(file: Path, overrides: Iterable[str]) -> str:
    """The recipe in `file` as text, overrides applied. Comments are lost."""
    data, _ = _read_file(file)
    for text in overrides:
        _override(data, text)
    return render_yaml(data)


def locate(file: str, lines: Lines, overridden: frozenset[str], problem: Problem) -> str:
    """The problem with its place: `file:line` of the key or the nearest section around it, or `command line`."""
    around = [problem.path]
    while around[-1]:
        around.append(around[-1].rpartition(".")[0])
    if any(path in overridden for path in around):
        place = "command line"
    else:
        place = f"{file}:{next((lines[path] for path in around if path in lines), 1)}"
    return f"{place}: {problem.path}: {problem.message}"


def _read_file(file: Path) -> tuple[Data, Lines]:
    try:
        data, lines = read_yaml(_read_text(file))
    except YamlError as error:
        raise RecipeError([f"{file}:{error.line}: {error}"]) from None
    if not isinstance(data, dict | None):
        kind = "a list" if isinstance(data, list) else json.dumps(data)
        raise RecipeError([f"{file}:1: a recipe is sections of 'key: value', not {kind}"])
    return data or {}, lines


def _read_text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            content = stream.read(4 * MAX_CHARACTERS)
    except FileNotFoundError:
        siblings = [str(path) for path in file.parent.glob("[!.]*.y*ml")]
        raise RecipeError([f"{file}: no such recipe{nearest(str(file), siblings)}"]) from None
    except IsADirectoryError:
        inside = [str(path) for path in file.glob("[!.]*.y*ml")]
        raise RecipeError([f"{file}: is a folder, not a recipe{nearest(str(file / file.name), inside)}"]) from None
    except OSError as error:
        raise RecipeError([f"{file}: cannot be read: {error.strerror}"]) from None
    if len(content) == 4 * MAX_CHARACTERS:
        raise RecipeError([f"{file}: {len(content):,} bytes or more: too long for a recipe"])
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError([f"{file}:{line}: not UTF-8 text: byte 0x{content[error.start]:02x}"]) from None


def _override(data: Data, text: str) -> str:
    """Set `key.path=value` in `data`, and return the path. Raise RecipeError when that is impossible."""
    path, equals, value_text = text.partition("=")
    if not equals or not path.isprintable() or not all(path.split(".")):
        raise RecipeError([f"command line: '{text}' is not key.path=value; write for example train.epochs=10"])
    try:
        value, _ = read_yaml(value_text)
    except YamlError as error:
        raise RecipeError([f"command line: {path}: {error}"]) from None
    *sections, last = path.split(".")
    here: Any = data
    done = ""
    for key in sections:
        if isinstance(here, dict) and here.get(key) is None:
            here[key] = {}
        here = here[_key_in(here, key, path, done)]
        done = join(done, key)
    here[_key_in(here, last, path, done)] = value
    return path


def _key_in(here: Any, key: str, path: str, done: str) -> str | int:
    """`key` as an index into `here`, the value at `done`."""
    if isinstance(here, dict):
        return key
    if not isinstance(here, list):
        raise RecipeError([f"command line: {path}: {done} is a single value without {key}"])
    if not (key.isascii() and key.isdigit() and int(key) < len(here)):
        valid = f"; valid: 0 to {len(here) - 1}" if here else ""
        raise RecipeError([f"command line: {path}: {done} is a list without {key}{valid}"])
    return int(key)


def _validate(data: Data) -> tuple[Recipe, list[Problem]]:
    """The recipe and all its problems; with any problem, the recipe is only a stand-in.

    With wrong keys, contradictions are searched in the recipe without them; those that the removal may have caused are
    not reported.
    """
    try:
        recipe, wrong = Recipe.from_plain(data), SchemaProblems()
    except ValidationError as error:
        wrong = explain(error, data)
        recipe, replaced = _build_without(wrong.paths, data)
        wrong.paths.update(replaced)
    found = [problem for problem in find_contradictions(recipe) if not wrong.may_cause(problem, data)]
    return recipe, wrong.problems + found


def _build_without(paths: Iterable[str], data: Data) -> tuple[Recipe, set[str]]:
    """The recipe without the keys `paths`, and the sections that had to be replaced, or left to their defaults."""
    rest = json.loads(json.dumps(data))
    for path in paths:
        _remove(rest, path.split("."))
    try:
        return Recipe.from_plain(rest), set()
    except ValidationError as error:
        replaced = {str(detail["loc"][0]) for detail in error.errors()}
    kept = {name: section for name, section in rest.items() if name not in replaced}
    return Recipe.from_plain({**kept, **{name: PLAIN[name] for name in replaced if name in PLAIN}}), replaced


def _remove(data: Any, keys: list[str]) -> None:
    """Remove a key; a list with a wrong item is removed as a whole."""
    if not isinstance(data, dict) or keys[0] not in data:
        return
    if len(keys) == 1 or not isinstance(data[keys[0]], dict):
        del data[keys[0]]
    else:
        _remove(data[keys[0]], keys[1:])
