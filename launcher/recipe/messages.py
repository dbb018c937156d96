"""pydantic's errors as messages for users: one problem per place, with the nearest valid name."""

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
"""Kind of error that means another type altogether -> the type expected."""

LIMITS = {
    "greater_than_equal": ("must be at least {}", "ge"),
    "greater_than": ("must be more than {}", "gt"),
    "less_than_equal": ("must be at most {}", "le"),
    "less_than": ("must be less than {}", "lt"),
    "finite_number": ("must be a finite number", ""),
    "string_too_short": ("must not be empty", ""),
    "string_pattern_mismatch": ("must be letters, digits, '.', '_' and '-', a letter or digit first", ""),
}
"""Kind of error that means the right type but a wrong value -> message, and pydantic's name of the limit in it."""

MISSING = "required, but missing"

SHOWN_CHARACTERS = 60
"""Characters of a wrong value in a message."""


@dataclass
class SchemaProblems:
    """Everything in a recipe that violates the schema."""

    problems: list[Problem] = field(default_factory=list)
    paths: set[str] = field(default_factory=set)
    """Keys with a wrong value."""
    unknown_in: set[str] = field(default_factory=set)
    """Sections with an unknown key, which may be a misspelt one of theirs."""

    def may_cause(self, contradiction: Problem, data: dict[str, Any]) -> bool:
        """Whether the contradiction may vanish when these problems are fixed: it depends on one of their keys."""
        return any(
            any(_contains(wrong, path) or _contains(path, wrong) for wrong in self.paths)
            or (not _is_written(data, path) and any(_contains(section, path) for section in self.unknown_in))
            for path in contradiction.paths
        )


def explain(error: ValidationError, data: dict[str, Any], schema: type[Section] = Recipe) -> SchemaProblems:
    """One problem per place, in the order of `schema`. `error`: raised by validating `data` against it."""
    details: dict[str, list[ErrorDetails]] = {}
    found = SchemaProblems()
    for detail in error.errors():
        if detail["type"] == "too_short" and len(detail["input"]) >= detail["ctx"]["min_length"]:
            continue  # a list whose items are wrong: pydantic calls it too short as well
        path = _path_in_data(detail, data)
        details.setdefault(path, []).append(detail)
        if detail["type"] == "extra_forbidden":
            found.unknown_in.add(path.rpartition(".")[0])
    for path, here in details.items():
        right_type = [detail for detail in here if not _is_other_type(detail)]
        if not right_type and any(_contains(path, deeper) and deeper != path for deeper in details):
            continue  # the other members of a union: the intended one has an error deeper inside
        found.problems.append(Problem(path, _describe(right_type[0], schema) if right_type else _describe_types(here)))
        found.paths.add(path)
    found.problems = [problem for problem in found.problems if not _is_misspelt(problem, found.problems)]
    return found


def _is_misspelt(problem: Problem, problems: list[Problem]) -> bool:
    """Whether a required key is missing because it is misspelt, which is another one of `problems`."""
    section, _, key = problem.path.rpartition(".")
    hint = f"unknown key; did you mean '{key}'?"
    return problem.message == MISSING and any(
        other.message == hint and other.path.rpartition(".")[0] == section for other in problems
    )


def _is_other_type(detail: ErrorDetails) -> bool:
    return detail["type"] in EXPECTED or (detail["type"] == "literal_error" and detail["loc"][-1] != "[key]")


def _contains(section: str, path: str) -> bool:
    """Whether `path` is `section` or in it."""
    return section in ("", path) or path.startswith(f"{section}.")


def _is_written(data: Any, path: str) -> bool:
    try:
        for key in path.split("."):
            data = data[int(key) if isinstance(data, list) else key]
    except (LookupError, TypeError, ValueError):
        return False
    return True


def _path_in_data(detail: ErrorDetails, data: Any) -> str:
    """pydantic's location as a dotted path in `data`, that is without the tags of union members."""
    path, location, kind = "", detail["loc"], detail["type"]
    for key in location:
        try:
            data = data[key]
        except (LookupError, TypeError):  # a tag, or a missing key
            continue
        path = join(path, key)
    if kind == "missing" and isinstance(location[-1], str):
        path = join(path, location[-1])
    if kind in ("union_tag_invalid", "union_tag_not_found") and isinstance(data, dict):
        path = join(path, _discriminator(detail))
    return path


def _discriminator(detail: ErrorDetails) -> str:
    return str(detail["ctx"]["discriminator"]).strip("'")


def _describe(detail: ErrorDetails, schema: type[Section]) -> str:
    """The message for a value of the right type, or for a key."""
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
    """The message for a section whose `name` or `op`, which names its kind, is missing or unknown."""
    discriminator = _discriminator(detail)
    if detail["type"] == "union_tag_not_found":
        return f"{MISSING}: it names the {'operation' if discriminator == 'op' else 'kind'}"
    tag, valid = str(detail["ctx"]["tag"]), _choices(detail["ctx"]["expected_tags"])
    if tag in RANDOM_OPS:
        return f"{tag} is random, for augment.train only; valid: {', '.join(sorted(valid))}"
    return f"no such {discriminator}: {_show(detail['input'][discriminator])}{nearest(tag, valid)}"


def _describe_types(details: list[ErrorDetails]) -> str:
    """The message for a value of a wrong type: every type that the key takes."""
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
    """The names in pydantic's `'a', 'b' or 'c'`."""
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
    return list(here.model_fields) if _is_section(here) else []


def _inside(annotation: Any, key: str | int) -> Any:
    """The type under `key`: a field of a section, an item of a tuple, or the union member with that tag."""
    if _is_section(annotation):
        return annotation.model_fields[str(key)].annotation if key in annotation.model_fields else annotation
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _inside(arguments[0], key)
    if origin is tuple:
        return arguments[0]
    if origin is dict:
        return arguments[1]
    if origin is typing.Union or origin is UnionType:
        for member in arguments:
            if Tag(str(key)) in getattr(member, "__metadata__", ()):
                return typing.get_args(member)[0]
            fields = member.model_fields if _is_section(member) else {}
            if any(key in typing.get_args(fields[tag].annotation) for tag in ("name", "op") if tag in fields):
                return member
        return arguments[0]
    return annotation


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)
