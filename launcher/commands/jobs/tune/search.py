"""`search.yaml`: which keys of a recipe are searched, where, and how long."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, TypeAdapter, ValidationError

from launcher.errors import RecipeError, nearest
from launcher.recipe.fields import Count, Section
from launcher.recipe.lock import flatten
from launcher.recipe.messages import explain
from launcher.recipe.parse import load_recipe, locate
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import Lines, YamlError, read_yaml

PLAIN = re.compile(r"[A-Za-z/][\w./-]*")
OF_TUNE = {
    "run.dir": "each trial has a folder of its own",
    "run.name": "all trials have the search's",
    "log.wandb.group": "all trials are in the search's",
    "log.wandb.job_type": "it is tune in all trials",
    "train.best_metric": "trials are compared by it",
}
"""Keys that are not searched, and why."""
UNKNOWN = "unknown key"
"""Begins what a recipe says of a key that it does not take."""
FRACTION = 0.3819
"""Of a range, where a value between its ends is tried: hardly ever at a whole number."""

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

    def holds(self, value: Any) -> bool:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return is_number and self.low <= value <= self.high and (not self.whole or isinstance(value, int))


Choices = Annotated[tuple[Value, ...], Field(min_length=2)]
Domain = Annotated[
    Annotated[Span, Tag("[range]")] | Annotated[Choices, Tag("[choices]")],
    Discriminator(lambda data: "[choices]" if isinstance(data, list | tuple) else "[range]"),
]
_DOMAIN: TypeAdapter[Span | tuple[Value, ...]] = TypeAdapter(Domain)


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

    @property
    def most(self) -> int | None:
        """How many different trials there are; None: without end."""
        sizes = [_size(domain) for domain in self.search.values()]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    @property
    def wanted(self) -> int:
        """Trials: as many as asked for, or as there are."""
        return self.trials if self.most is None else min(self.trials, self.most)

    def all_values(self) -> Iterator[Values]:
        """Of every different trial, where these have an end."""
        each = [range(int(d.low), int(d.high) + 1) if isinstance(d, Span) else d for d in self.search.values()]
        return (dict(zip(self.search, values, strict=True)) for values in itertools.product(*each))


def tries_all(search: Search) -> bool:
    """Whether every different trial is wanted, so that nothing is to be chosen."""
    return search.most is not None and search.most <= search.trials


@dataclass(frozen=True)
class LoadedSearch:
    """A search and where each of its keys was written."""

    search: Search
    file: Path
    lines: Lines

    def error(self, problems: Iterable[Problem]) -> RecipeError:
        """The problems as one error, each line with its place."""
        return RecipeError([locate(str(self.file), self.lines, frozenset(), problem) for problem in problems])


def load_search(file: Path, recipe_file: Path, overrides: Sequence[str]) -> LoadedSearch:
    """Read `file`; every key in it must be one that the recipe takes, with both ends of its range and every choice.

    Raise RecipeError with a line for every problem found.
    """
    data, lines = _read(file)
    problems: list[Problem] = []
    try:
        search = Search.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = explain(error, data, Search).problems
    domains = data.get("search")
    for key, written in domains.items() if isinstance(domains, dict) else ():
        problems += [Problem(f"search.{key}", what, ()) for what in _check(recipe_file, overrides, key, written)]
    if problems:
        messages = [locate(str(file), lines, frozenset(), problem) for problem in problems]
        raise RecipeError(list(dict.fromkeys(messages)))
    return LoadedSearch(search, file, lines)


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


def _size(domain: Span | Sequence[Value]) -> int | None:
    """How many values it has; None: without end."""
    if isinstance(domain, Span):
        return int(domain.high) - int(domain.low) + 1 if domain.whole else None
    return len(domain)


def _read(file: Path) -> tuple[dict[str, Any], Lines]:
    try:
        data, lines = read_yaml(file.read_text(encoding="utf-8"))
    except YamlError as error:
        raise RecipeError([f"{file}:{error.line}: {error}"]) from None
    except FileNotFoundError:
        siblings = [str(path) for path in file.parent.glob("[!.]*.y*ml")]
        raise RecipeError([f"{file}: no such file{nearest(str(file), siblings)}"]) from None
    except UnicodeDecodeError:
        raise RecipeError([f"{file}: is no text; name the YAML file that says what is searched"]) from None
    except OSError as error:
        raise RecipeError([f"{file}: cannot be read ({error.strerror}); name another file"]) from None
    if not isinstance(data, dict | None):
        kind = "a list" if isinstance(data, list) else json.dumps(data)
        raise RecipeError([f"{file}:1: a search is 'search:' with keys of the recipe below it, not {kind}"])
    return data or {}, lines


def _check(recipe_file: Path, overrides: Sequence[str], key: str, written: Any) -> Iterator[str]:
    """What is wrong with a key of the search, but for the shape of what is `written` for it."""
    if key in OF_TUNE:
        yield f"tune itself sets this key: {OF_TUNE[key]}; take it out of the search"
        return
    try:
        domain = _DOMAIN.validate_json(json.dumps(written))
        wrong = _contradiction(domain)
    except ValidationError:  # said elsewhere
        domain, wrong = (), ""
    if wrong or not domain:  # no values to try, but whether there is such a key can still be said
        yield from (what for what in _try(recipe_file, overrides, key, 1) if what.startswith(UNKNOWN))
        yield from [wrong] if wrong else []
        return
    problems = [
        what
        for value in ((domain.low, domain.high) if isinstance(domain, Span) else domain)
        for what in _try(recipe_file, overrides, key, value)
    ]
    if isinstance(domain, Span) and not domain.whole and not problems:
        between = domain.low + FRACTION * (domain.high - domain.low)
        if any(_try(recipe_file, overrides, key, between)):
            problems = [
                f"does not take {between:.4g}, which is in the range; where it takes whole numbers, add whole: true"
            ]
    yield from problems


def _contradiction(domain: Span | Sequence[Value]) -> str:
    """Why there is no such range, or are no such choices; empty where all is well."""
    if not isinstance(domain, Span):
        kinds = {"numbers" if type(value) in (int, float) else type(value).__name__ for value in domain}
        if len(kinds) > 1:
            return f"choices must be of one kind, not {' and '.join(sorted(kinds))}"
        twice = [value for i, value in enumerate(domain) if value in domain[:i]]
        return f"{show_value(twice[0])} is written twice" if twice else ""
    low, high = domain.low, domain.high
    if not low < high:
        return f"low {low:g} must be below high {high:g}"
    if domain.log and low <= 0:
        return f"low {low:g} has no logarithm; it must be above 0"
    if domain.whole and not (isinstance(low, int) and isinstance(high, int)):
        return "low and high must be whole numbers, as the values are"
    return ""


def _try(recipe_file: Path, overrides: Sequence[str], key: str, value: Value) -> Iterator[str]:
    """What a recipe would say of the value."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{value} is no number to try"
        return
    try:
        load_recipe(recipe_file, [*overrides, *as_overrides({key: value})])
    except RecipeError as error:
        own = f"command line: {key}: "
        for line in error.lines:
            yield line.removeprefix(own) if line.startswith(own) else f"{show_value(value)} does not go with {line}"
