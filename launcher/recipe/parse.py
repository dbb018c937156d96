"""A recipe file and its overrides -> a checked Recipe; or every problem at once, each with its place."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import UnionType
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from launcher.errors import RecipeError, UserError, nearest
from launcher.recipe.contradictions import Problem, find_contradictions
from launcher.recipe.fields import Section
from launcher.recipe.resolve import resolve_recipe
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import Lines, Path, YamlError, read_yaml


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe and where each of its keys was written."""

    recipe: Recipe
    file: str
    lines: Lines
    overridden: frozenset[Path]

    def error(self, problems: Iterable[Problem]) -> RecipeError:
        """The problems as one error, each line with its place: `file:line: path: what`."""
        return RecipeError([f"{self._place(tuple(p.path.split('.')))}: {p.path}: {p.what}" for p in problems])

    def _place(self, path: Path) -> str:
        return place(self.file, self.lines, self.overridden, path)


def load_recipe(file: FilePath, overrides: Iterable[str] = ()) -> LoadedRecipe:
    """Read `file`, lay `key.path=value` overrides over it, check everything.

    Raise RecipeError with a line for every problem found.
    """
    data, lines = _read_file(file)
    overridden = frozenset(_override(data, text) for text in overrides)
    recipe, problems = _validate(data)
    if recipe is not None:
        wrong = {path for p in problems for path in p.paths}
        problems += [p for p in find_contradictions(recipe) if not wrong & set(p.paths)]
    name = str(file)
    if problems or recipe is None:
        raise RecipeError([f"{place(name, lines, overridden, as_path(p.path))}: {p.path}: {p.what}" for p in problems])
    return LoadedRecipe(resolve_recipe(recipe, file.name), name, lines, overridden)


def as_path(dotted: str) -> Path:
    return tuple(int(part) if part.isdigit() else part for part in dotted.split("."))


def place(file: str, lines: Lines, overridden: frozenset[Path], path: Path) -> str:
    """`file:line` of the key, or of the nearest section around it; `command line` when it was given there."""
    for end in range(len(path), -1, -1):
        if path[:end] in overridden:
            return "command line"
        if path[:end] in lines:
            return f"{file}:{lines[path[:end]]}"
    return f"{file}:1"


def _read_file(file: FilePath) -> tuple[dict[str, Any], Lines]:
    try:
        data, lines = read_yaml(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        siblings = [str(p) for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise RecipeError([f"{file}: no such recipe{nearest(str(file), siblings)}"]) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError([f"{file}: cannot be read: {error}"]) from None
    except YamlError as error:
        raise RecipeError([f"{file}:{error.line}: {error}"]) from None
    if not isinstance(data, dict | None):
        raise RecipeError([f"{file}:1: a recipe is sections of 'key: value', not a {type(data).__name__}"])
    return data or {}, lines


def _override(data: dict[str, Any], text: str) -> Path:
    """Set `key.path=value` in `data`, and return the path."""
    dotted, equals, value_text = text.partition("=")
    if not equals or not dotted:
        raise UserError(f"command line: '{text}' is not key.path=value; write for example train.epochs=10")
    try:
        value, _ = read_yaml(value_text)
    except YamlError as error:
        raise UserError(f"command line: {dotted}: {error}") from None
    path = as_path(dotted)
    here: Any = data
    for i, key in enumerate(path):
        inside = isinstance(here, dict) or (isinstance(here, list) and isinstance(key, int) and key < len(here))
        if not inside:
            raise UserError(f"command line: {dotted}: there is no {'.'.join(map(str, path[: i + 1]))} in the recipe")
        if i == len(path) - 1:
            here[key] = value
        else:
            if isinstance(here, dict) and here.get(str(key)) is None:
                here[key] = {}
            here = here[key]
    return path


def _validate(data: dict[str, Any]) -> tuple[Recipe | None, list[Problem]]:
    """A recipe as far as one can be made: keys with problems are left out and take their defaults."""
    try:
        # JSON mode: in YAML as in JSON a tuple is written as a list.
        return Recipe.model_validate_json(json.dumps(data)), []
    except ValidationError as error:
        problems = _problems(error, data)
    for problem in problems:
        _remove(data, as_path(problem.path))
    try:
        return Recipe.model_validate_json(json.dumps(data)), problems
    except ValidationError:
        return None, problems


def _remove(data: Any, path: Path) -> None:
    for key in path[:-1]:
        if not (isinstance(data, dict) and key in data):
            return
        data = data[key]
    if isinstance(data, dict):
        data.pop(path[-1], None)


def _problems(error: ValidationError, data: dict[str, Any]) -> list[Problem]:
    """One problem a place: what a union's members each complain of is joined by `or`."""
    found: dict[str, list[str]] = {}
    for detail in error.errors():
        path = ".".join(map(str, _path_in_data(detail, data)))
        message = _describe(detail)
        if message not in found.setdefault(path, []):
            found[path].append(message)
    return [Problem(path, ", or ".join(messages), (path,)) for path, messages in found.items()]


def _path_in_data(detail: ErrorDetails, data: Any) -> list[str | int]:
    """pydantic's location without the names of union members, which are not in the file."""
    path: list[str | int] = []
    location = detail["loc"]
    for i, key in enumerate(location):
        if (isinstance(data, dict) and key in data) or (isinstance(data, list) and isinstance(key, int)):
            path.append(key)
            data = data[key]  # type: ignore[index]
        elif i == len(location) - 1 and detail["type"] == "missing":
            path.append(key)
    return path


def _describe(detail: ErrorDetails) -> str:
    kind, context, given = detail["type"], detail.get("ctx", {}), detail["input"]
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(detail['loc'][-1]), _keys_at(detail['loc'][:-1]))}"
    if kind == "missing":
        return "required, but not there"
    if kind == "union_tag_not_found":
        return f"needs a key {context['discriminator']} that says which kind it is"
    if kind == "union_tag_invalid":
        tag, discriminator = str(context["tag"]), str(context["discriminator"]).strip("'")
        valid = [name.strip(" '") for name in str(context["expected_tags"]).split(",")]
        return f"no such {discriminator} '{tag}'{nearest(tag, valid)}"
    if kind == "literal_error":
        valid = [name.strip(" '") for name in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"'{given}' is not one of these{nearest(str(given), valid)}"
    message = detail["msg"].removeprefix("Value error, ").removeprefix("Input ")
    for ours, theirs in (("a section with keys", "an object"), ("a list", "a valid array"), ("text", "a valid string")):
        message = message.replace(theirs, ours)
    shown = json.dumps(given) if isinstance(given, str | int | float | bool | None) else f"a {type(given).__name__}"
    return message if kind == "value_error" else f"{message}, not {shown}"


def _keys_at(location: Path) -> list[str]:
    """Keys of the section at pydantic's `location`."""
    here: Any = Recipe
    for key in location:
        here = _inside(here, key)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, Section) else []


def _inside(annotation: Any, key: str | int) -> Any:
    """The type found under `key`: a field of a section, an item of a tuple, or the union member that `key` names."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation.model_fields[str(key)].annotation if key in annotation.model_fields else annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _inside(arguments[0], key)
    if origin is tuple:
        return arguments[0]
    if origin is typing.Union or origin is UnionType:
        tagged = [
            member
            for member in arguments
            if isinstance(member, type) and issubclass(member, Section)
            for tag in ("name", "op")
            if tag in member.model_fields and key in typing.get_args(member.model_fields[tag].annotation)
        ]
        return tagged[0] if tagged else arguments[0]
    return annotation
