"""`search.yaml`: the keys of a recipe to search, their values, and the number of trials."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationError

from launcher.errors import RecipeError, nearest
from launcher.recipe.fields import Count, Section
from launcher.recipe.lock import flatten
from launcher.recipe.messages import explain
from launcher.recipe.parse import load_recipe, locate
from launcher.recipe.problem import Problem
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import Lines, YamlError, read_yaml

PLAIN = re.compile(r"[A-Za-z/][\w./-]*")
SET_BY_TUNE = {
    "run.dir": "each trial has a folder of its own",
    "run.name": "all trials share the search's name",
    "log.wandb.group": "all trials share the search's group",
    "log.wandb.job_type": "it is tune in all trials",
    "train.best_metric": "it compares the trials",
}
"""Keys that cannot be searched, and why."""
UNKNOWN = "unknown key"
"""Begins a recipe's message about a key that it does not have."""
FRACTION = 0.3819
"""Position within a range of a value that is hardly ever a whole number."""

Value = int | float | str | bool
Values = dict[str, Value]
"""Key of the recipe -> value."""


class Range(Section):
    """Numbers from `low` to `high`."""

    low: int | float
    """Smallest value."""
    high: int | float
    """Largest value."""
    log: bool = False
    """Search the logarithm: as many trials between 0.001 and 0.01 as between 0.01 and 0.1."""
    whole: bool = False
    """Whole numbers only."""


Domain = Range | tuple[Value, ...]
_Domain = Annotated[
    Annotated[Range, Tag("[range]")] | Annotated[tuple[Value, ...], Field(min_length=2), Tag("[choices]")],
    Discriminator(lambda data: "[choices]" if isinstance(data, list | tuple) else "[range]"),
]


class Search(Section):
    """The keys to search, and the number of trials."""

    trials: Count = 20
    """Number of trainings; the first has the recipe's own values."""
    start: Count = 5
    """Trials spread evenly (Sobol) before Bayesian optimization chooses the others."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the choice of values."""
    stop_early: bool = False
    """End a trial whose validation metric is below the median of the others at the same step."""
    search: Annotated[dict[str, _Domain], Field(min_length=1)]
    """Key of the recipe -> {low, high, log, whole}, or a list of values to choose from."""

    @property
    def num_distinct(self) -> float:
        """Number of different trials, which may be infinite."""
        return math.prod(map(_size, self.search.values()), start=1.0)

    @property
    def num_trials(self) -> int:
        return int(min(self.trials, self.num_distinct))

    @property
    def is_grid(self) -> bool:
        """Whether every different trial is wanted, so that no model has to choose."""
        return self.num_distinct <= self.trials

    def grid(self) -> Iterator[Values]:
        """Values of every different trial of a search whose number is finite."""
        each = [range(int(d.low), int(d.high) + 1) if isinstance(d, Range) else d for d in self.search.values()]
        return (dict(zip(self.search, values, strict=True)) for values in itertools.product(*each))


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
    """Read `file`, and check that the recipe takes every key in it, both ends of each range and every choice.

    Raise RecipeError with a line for every problem found.
    """
    data, lines = _read(file)
    problems: list[Problem] = []
    try:
        search = Search.from_plain(data)
    except ValidationError as error:
        problems = explain(error, data, Search).problems
    domains = data.get("search")
    for key, written in domains.items() if isinstance(domains, dict) else ():
        problems += [Problem(f"search.{key}", what) for what in _check(recipe_file, overrides, key, written)]
    if problems:
        messages = [locate(str(file), lines, frozenset(), problem) for problem in problems]
        raise RecipeError(list(dict.fromkeys(messages)))
    return LoadedSearch(search, file, lines)


def recipe_values(search: Search, recipe: Recipe) -> tuple[Values, list[str]]:
    """The recipe's own values of the searched keys, and those keys whose own value is not in the search."""
    flat = flatten(recipe.model_dump(mode="json"))
    values = {key: flat.get(key) for key in search.search}
    outside = [key for key, domain in search.search.items() if not _contains(domain, values[key])]
    return {key: value for key, value in values.items() if value is not None}, outside


def as_overrides(values: Mapping[str, Value]) -> list[str]:
    """`key=value` for each. Plain text is not quoted, as a SLURM job's shell reads `run.dir`."""
    return [f"{key}={value if is_plain(value) else json.dumps(value)}" for key, value in values.items()]


def is_plain(value: Value) -> bool:
    """Whether it is text that YAML and a shell read as it is, without quotes."""
    return isinstance(value, str) and bool(PLAIN.fullmatch(value)) and value not in ("true", "false", "null")


def show_value(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_domain(domain: Domain | None) -> str:
    """As a search file has it."""
    if domain is None:
        return "not there"
    if not isinstance(domain, Range):
        return json.dumps(domain)
    given = domain.model_dump(exclude_defaults=True)
    return "{" + ", ".join(f"{key}: {json.dumps(value)}" for key, value in given.items()) + "}"


def _contains(domain: Domain, value: Any) -> bool:
    if not isinstance(domain, Range):
        return value in domain
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and domain.low <= value <= domain.high and (not domain.whole or isinstance(value, int))


def _size(domain: Domain) -> float:
    """Number of values, which may be infinite."""
    if not isinstance(domain, Range):
        return len(domain)
    return int(domain.high) - int(domain.low) + 1 if domain.whole else math.inf


def _read(file: Path) -> tuple[dict[str, Any], Lines]:
    try:
        data, lines = read_yaml(file.read_text(encoding="utf-8"))
    except YamlError as error:
        raise RecipeError([f"{file}:{error.line}: {error}"]) from None
    except FileNotFoundError:
        siblings = [str(path) for path in file.parent.glob("[!.]*.y*ml")]
        raise RecipeError([f"{file}: no such file{nearest(str(file), siblings)}"]) from None
    except UnicodeDecodeError:
        raise RecipeError([f"{file}: not UTF-8 text; name a YAML file with the keys to search"]) from None
    except OSError as error:
        raise RecipeError([f"{file}: cannot be read ({error.strerror}); name another file"]) from None
    if not isinstance(data, dict | None):
        kind = "a list" if isinstance(data, list) else json.dumps(data)
        raise RecipeError([f"{file}:1: a search is 'search:' with keys of the recipe below it, not {kind}"])
    return data or {}, lines


def _check(recipe_file: Path, overrides: Sequence[str], key: str, written: Any) -> Iterator[str]:
    """Problems of a key of the search, except for the types of what is `written` for it."""
    if key in SET_BY_TUNE:
        yield f"tune itself sets this key: {SET_BY_TUNE[key]}; take it out of the search"
        return
    try:
        domain = Search.from_plain({"search": {key: written}}).search[key]
        contradiction = _find_contradiction(domain)
    except ValidationError:  # load_search reports it
        domain, contradiction = (), ""
    if contradiction or not domain:  # no values to try, but the recipe knows whether it has the key
        yield from (what for what in _try(recipe_file, overrides, key, 1) if what.startswith(UNKNOWN))
        yield from [contradiction] if contradiction else []
        return
    values = (domain.low, domain.high) if isinstance(domain, Range) else domain
    problems = [what for value in values for what in _try(recipe_file, overrides, key, value)]
    if isinstance(domain, Range) and not domain.whole and not problems:
        between = domain.low + FRACTION * (domain.high - domain.low)
        if any(_try(recipe_file, overrides, key, between)):
            problems = [f"{between:.4g} is in the range, but no valid value; for whole numbers, add whole: true"]
    yield from problems


def _find_contradiction(domain: Domain) -> str:
    """Why there is no such range, or are no such choices; empty when there is none."""
    if not isinstance(domain, Range):
        types = {"numbers" if type(value) in (int, float) else type(value).__name__ for value in domain}
        if len(types) > 1:
            return f"choices must be of one type, not {' and '.join(sorted(types))}"
        repeated = [value for i, value in enumerate(domain) if value in domain[:i]]
        return f"{show_value(repeated[0])} is written twice" if repeated else ""
    low, high = domain.low, domain.high
    if not low < high:
        return f"low {low:g} must be below high {high:g}"
    if domain.log and low <= 0:
        return f"low {low:g} has no logarithm; it must be more than 0"
    if domain.whole and not (isinstance(low, int) and isinstance(high, int)):
        return "low and high must be whole numbers, as whole: true is set"
    return ""


def _try(recipe_file: Path, overrides: Sequence[str], key: str, value: Value) -> Iterator[str]:
    """Problems of the recipe with this value."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{value} is not a finite number"
        return
    try:
        load_recipe(recipe_file, [*overrides, *as_overrides({key: value})])
    except RecipeError as error:
        own = f"command line: {key}: "
        for line in error.lines:
            yield line.removeprefix(own) if line.startswith(own) else f"{show_value(value)} contradicts {line}"
