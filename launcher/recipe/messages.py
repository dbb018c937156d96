"""What pydantic finds wrong with a recipe, in a user's words: one problem a place, with the nearest valid name."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import UnionType
from typing import Any

from pydantic import Tag, ValidationError
from pydantic_core import ErrorDetails

from launcher.errors import nearest
from launcher.recipe.augment import RANDOM_OPS
from launcher.recipe.fields import Section
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import join

EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a section with keys",
    "model_type": "a section with keys",
}
"""Kinds of error that mean: another type altogether."""

LIMITS = {
    "greater_than_equal": ("must be at least {}", "ge"),
    "greater_than": ("must be more than {}", "gt"),
    "less_than_equal": ("must be at most {}", "le"),
    "less_than": ("must be less than {}", "lt"),
    "finite_number": ("must be a finite number", ""),
    "string_too_short": ("must not be empty", ""),
    "string_pattern_mismatch": ("must be letters, digits, '.', '_' and '-', a letter or digit first", ""),
}
"""Kinds of error that mean: the right type but not this value. Message, and pydantic's name of the limit in it."""

MISSING = "required, but not there"

SHOWN_CHARACTERS = 60
"""Of a wrong value."""


@dataclass
class Wrong:
    """`paths`: what cannot be trusted; `unknown_in`: sections with an unknown key, perhaps one of theirs misspelt."""

    problems: list[Problem] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    unknown_in: set[str] = field(default_factory=set)

    def may_cause(self, contradiction: Problem, data: dict[str, Any]) -> bool:
        """Whether the contradiction may be gone once these are mended, for it rests on a key that is among them."""
        return any(
            any(_is_around(wrong, path) or _is_around(path, wrong) for wrong in self.paths)
            or (not _is_written(data, path) and any(_is_around(section, path) for section in self.unknown_in))
            for path in contradiction.paths
        )


def explain(error: ValidationError, data: dict[str, Any], schema: type[Section] = Recipe) -> Wrong:
    """One problem a place, in the order of `schema`, which `data` is not of."""
    details: dict[str, list[ErrorDetails]] = {}
    wrong = Wrong()
    for detail in error.errors():
        if _is_follow_up(detail):
            continue
        path = _path_in_data(detail, data)
        details.setdefault(path, []).append(detail)
        if detail["type"] == "extra_forbidden":
            wrong.unknown_in.add(path.rpartition(".")[0])
    for path, found in details.items():
        right_type = [detail for detail in found if not _is_other_type(detail)]
        if not right_type and any(_is_around(path, deeper) and deeper != path for deeper in details):
            continue  # The union's other members; the one that was meant complains of something inside.
        what = _describe(right_type[0], schema) if right_type else _describe_types(found)
        wrong.problems.append(Problem(path, what, (path,)))
        wrong.paths.add(path)
    wrong.problems = [problem for problem in wrong.problems if not _is_misspelt(problem, wrong.problems)]
    return wrong


def _is_misspelt(problem: Problem, problems: list[Problem]) -> bool:
    """Whether a required key is only missing because it is there under a wrong name, which is another problem."""
    section, _, key = problem.path.rpartition(".")
    hint = f"unknown key; did you mean '{key}'?"
    return problem.what == MISSING and any(
        other.what == hint and other.path.rpartition(".")[0] == section for other in problems
    )


def _is_follow_up(detail: ErrorDetails) -> bool:
    """A list whose items are wrong also counts as too short."""
    return detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]


def _is_other_type(detail: ErrorDetails) -> bool:
    return detail["type"] in EXPECTED or (detail["type"] == "literal_error" and detail["loc"][-1] != "[key]")


def _is_around(section: str, path: str) -> bool:
    """Whether `path` is `section` or in it."""
    return section in ("", path) or path.startswith(f"{section}.")


def _is_written(data: Any, path: str) -> bool:
    for key in path.split("."):
        if isinstance(data, list) and key.isdigit():
            data = data[int(key)]
        elif isinstance(data, dict) and key in data:
            data = data[key]
        else:
            return False
    return True


def _path_in_data(detail: ErrorDetails, data: Any) -> str:
    """pydantic's location as a dotted path, without the names of union members, which are not in the file."""
    path, location, kind = "", detail["loc"], detail["type"]
    for i, key in enumerate(location):
        is_last = i == len(location) - 1
        if (isinstance(data, dict) and key in data) or (
            isinstance(data, list) and isinstance(key, int) and key < len(data)
        ):
            path = join(path, key)
            data = data[key]  # type: ignore[index]
        elif is_last and kind == "missing" and isinstance(key, str):
            path = join(path, key)
    if kind in ("union_tag_invalid", "union_tag_not_found") and isinstance(data, dict):
        path = join(path, _discriminator(detail))
    return path


def _discriminator(detail: ErrorDetails) -> str:
    return str(detail["ctx"]["discriminator"]).strip("'")


def _describe(detail: ErrorDetails, schema: type[Section]) -> str:
    """What is wrong with a value of the right type, or with a key."""
    kind, context, given, key = detail["type"], detail.get("ctx", {}), detail["input"], detail["loc"][-1]
    if kind == "extra_forbidden":
        return f"unknown key{nearest(str(key), _keys_at(schema, detail['loc'][:-1]))}"
    if kind == "literal_error":
        return f"unknown key{nearest(str(given), _choices(context['expected']))}"
    if kind == "missing" and isinstance(key, str):
        return MISSING
    if kind == "missing":
        return f"needs more values than {len(given)}"
    if kind in ("too_short", "too_long"):
        limit = context["min_length"] if kind == "too_short" else context["max_length"]
        least = "least" if kind == "too_short" else "most"
        return f"needs at {least} {limit} value{'s' if limit > 1 else ''}, not {len(given)}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        return _describe_tag(detail)
    if kind in LIMITS:
        words, limit = LIMITS[kind]
        return f"{words.format(_show(context.get(limit)).removesuffix('.0'))}, not {_show(given)}"
    return f"{detail['msg'].removeprefix('Value error, ')}, not {_show(given)}"


def _describe_tag(detail: ErrorDetails) -> str:
    """What is wrong with the key that says which kind a section is: `name`, or `op`."""
    discriminator = _discriminator(detail)
    if detail["type"] == "union_tag_not_found":
        return f"required, but not there: says which {'operation' if discriminator == 'op' else 'kind'} this is"
    tag, valid = str(detail["ctx"]["tag"]), _choices(detail["ctx"]["expected_tags"])
    if tag in RANDOM_OPS:
        return f"{tag} is random, for augment.train only; valid: {', '.join(sorted(valid))}"
    return f"no such {discriminator}: {_show(detail['input'][discriminator])}{nearest(tag, valid)}"


def _describe_types(details: list[ErrorDetails]) -> str:
    """What the place takes, in one sentence, however many types that are."""
    given = details[0]["input"]
    literals = [each for each in details if each["type"] == "literal_error"]
    choices = [word for each in literals for word in _choices(each["ctx"]["expected"])]
    types = [EXPECTED[each["type"]] for each in details if each["type"] != "literal_error"]
    hint = nearest(given, choices) if choices and isinstance(given, str) else ""
    if choices and not types:
        return f"no such value: {_show(given)}{hint or nearest('', choices)}"
    if "a number" in types and "a whole number" in types:
        types.remove("a whole number")
    expected = " or ".join(dict.fromkeys([*types, *choices]))
    return f"should be {expected}, not {_show(given)}{hint if 'did you mean' in hint else ''}"


def _choices(listed: str) -> list[str]:
    """pydantic's `'a', 'b' or 'c'` as names."""
    return [name.strip(" '") for name in str(listed).replace(" or ", ", ").split(",")]


def _show(value: Any) -> str:
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "a section"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}..."


def _keys_at(schema: type[Section], location: Iterable[str | int]) -> list[str]:
    """Keys of the section at pydantic's `location`."""
    here: Any = schema
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
    if origin is dict:
        return arguments[1]
    if origin is typing.Union or origin is UnionType:
        chosen = [member for member in arguments if Tag(str(key)) in getattr(member, "__metadata__", ())]
        if chosen:
            return typing.get_args(chosen[0])[0]
        tagged = [
            member
            for member in arguments
            if isinstance(member, type) and issubclass(member, Section)
            for tag in ("name", "op")
            if tag in member.model_fields and key in typing.get_args(member.model_fields[tag].annotation)
        ]
        return tagged[0] if tagged else arguments[0]
    return annotation
