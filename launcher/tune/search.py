"""`search.yaml`: which keys of a recipe are searched, where, and how long."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag, ValidationError, model_validator

from launcher.errors import RecipeError, nearest
from launcher.recipe.fields import Count, Section
from launcher.recipe.lock import flatten
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import Lines, YamlError, read_yaml

PLAIN = re.compile(r"[A-Za-z/][\w./-]*")

Value = int | float | str | bool
Values = dict[str, Value]
"""Key of the recipe -> value."""


class Span(Section):
    """Numbers from `low` to `high`."""

    low: int | float
    """The least."""
    high: int | float
    """The largest."""
    log: bool = False
    """Search the logarithm: as many trials between 0.001 and 0.01 as between 0.01 and 0.1."""
    whole: bool = False
    """Whole numbers only."""

    @model_validator(mode="after")
    def _check(self) -> Span:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} has no logarithm; it must be above 0")
        if self.whole and not (isinstance(self.low, int) and isinstance(self.high, int)):
            raise ValueError("low and high must be whole numbers, as the values are")
        return self

    def holds(self, value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high and (not self.whole or isinstance(value, int))


def _check_kinds(choices: tuple[Value, ...]) -> tuple[Value, ...]:
    kinds = {"numbers" if type(value) in (int, float) else type(value).__name__ for value in choices}
    if len(kinds) > 1:
        raise ValueError(f"choices must be of one kind, not {' and '.join(sorted(kinds))}")
    return choices


Choices = Annotated[tuple[Value, ...], Field(min_length=2), AfterValidator(_check_kinds)]
Domain = Annotated[
    Annotated[Span, Tag("[range]")] | Annotated[Choices, Tag("[choices]")],
    Discriminator(lambda data: "[choices]" if isinstance(data, list | tuple) else "[range]"),
]


class Search(Section):
    """A search, whole."""

    trials: Count = 20
    """How many trainings, that of the recipe as it is among them."""
    start: Count = 5
    """So many of them are spread evenly (Sobol); the others go where these promise most (Bayesian optimisation)."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides which values are tried."""
    stop_early: bool = False
    """End a trial whose validation figure is below the median of the others' at the same step."""
    search: Annotated[dict[str, Domain], Field(min_length=1)]
    """Key of the recipe -> {low, high, log, whole}, or a list of values to choose from."""


def load_search(file: Path, recipe_file: Path, overrides: Sequence[str]) -> Search:
    """Read `file`; every key in it must be one that the recipe takes, with both ends of its range and every choice.

    Raise RecipeError with a line for every problem found.
    """
    data, lines = _read(file)
    try:
        search = Search.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise RecipeError([_locate(file, lines, detail) for detail in error.errors()]) from None
    wrong = [
        text.replace("command line:", f"{file}:{lines.get(f'search.{key}', 1)}:", 1)
        for key, domain in search.search.items()
        for text in _try(recipe_file, overrides, key, domain)
    ]
    if wrong:
        raise RecipeError(list(dict.fromkeys(wrong)))
    return search


def own_values(search: Search, recipe: Recipe) -> tuple[Values, list[str]]:
    """The recipe's own values of what is searched, and those keys whose value the search leaves out."""
    flat = flatten(recipe.model_dump(mode="json"))
    values = {key: flat.get(key) for key in search.search}
    outside = [key for key, domain in search.search.items() if not _holds(domain, values[key])]
    return {key: value for key, value in values.items() if value is not None}, outside


def as_overrides(values: Mapping[str, Value]) -> list[str]:
    """Plain words stay so: the shell of a job looks at `run.dir`."""
    return [f"{key}={value if is_plain(value) else json.dumps(value)}" for key, value in values.items()]


def is_plain(value: Value) -> bool:
    """Whether YAML reads it as the text that it is."""
    return isinstance(value, str) and bool(PLAIN.fullmatch(value)) and value not in ("true", "false", "null")


def show_value(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _holds(domain: Span | Sequence[Value], value: Any) -> bool:
    return domain.holds(value) if isinstance(domain, Span) else value in domain


def _read(file: Path) -> tuple[Any, Lines]:
    try:
        return read_yaml(file.read_text(encoding="utf-8"))
    except YamlError as error:
        raise RecipeError([f"{file}:{error.line}: {error}"]) from None
    except FileNotFoundError:
        siblings = [str(path) for path in file.parent.glob("[!.]*.y*ml")]
        raise RecipeError([f"{file}: no such file{nearest(str(file), siblings)}"]) from None
    except UnicodeDecodeError:
        raise RecipeError([f"{file}: is no text; name the YAML file that says what is searched"]) from None
    except OSError as error:
        raise RecipeError([f"{file}: cannot be read ({error.strerror}); name another file"]) from None


def _locate(file: Path, lines: Lines, detail: Any) -> str:
    """`file:line: path: what`."""
    keys = [str(key) for key in detail["loc"] if not str(key).startswith("[")]
    path = ".".join(keys)
    line = next((lines[place] for end in range(len(keys), 0, -1) if (place := ".".join(keys[:end])) in lines), 1)
    what = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        known = Search.model_fields if len(keys) == 1 else Span.model_fields
        what = f"unknown key{nearest(keys[-1], known)}"
    elif detail["type"] == "missing":
        what = "required, but not there"
    return f"{file}:{line}: {path or 'the file'}: {what[:1].lower()}{what[1:]}"


def _try(recipe_file: Path, overrides: Sequence[str], key: str, domain: Span | Sequence[Value]) -> Iterator[str]:
    """What a recipe would say of the values."""
    for value in (domain.low, domain.high) if isinstance(domain, Span) else domain:
        if isinstance(value, float) and not math.isfinite(value):
            yield f"command line: {key}: {value} is no number to try"
            continue
        try:
            load_recipe(recipe_file, [*overrides, *as_overrides({key: value})])
        except RecipeError as error:
            yield from error.lines
