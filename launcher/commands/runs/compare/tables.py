"""What a comparison shows, as tables of words: the console and the report show the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from launcher.commands.runs.compare.groups import Group, Run, find_differing
from launcher.commands.runs.compare.metrics import MEASURES, Measure, per_class
from launcher.commands.runs.compare.predictions import Match, match_runs
from launcher.commands.runs.compare.statistics import Difference, adjust, describe, welch
from launcher.text import show_duration

NONE = "-"


@dataclass(frozen=True)
class Table:
    """`notes`: what must be known to read it."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def build_tables(groups: Sequence[Group]) -> list[Table]:
    """Raise RunError when stored predictions are damaged."""
    tables = [list_runs(groups), list_differences(groups), list_figures(groups)]
    if len(groups) > 1:
        tables += [list_tests(groups), list_paired(groups)]
    return [*tables, list_classes(groups)]


def list_runs(groups: Sequence[Group]) -> Table:
    """Each run, its figures that are tested among them."""
    tested = [measure for measure in MEASURES if measure.is_tested]
    columns = ("group", "name", "seed", "status", *(measure.name for measure in tested), "time", "folder")
    rows = [
        (
            *(group.label, run.name, str(run.seed), run.history.status),
            *(_show(measure, measure.find(run)) for measure in tested),
            show_duration(_time_s(run)),
            run.found.name,
        )
        for group in groups
        for run in group.runs
    ]
    return Table("runs", columns, tuple(rows), tuple(_find_doubts(groups)))


def _time_s(run: Run) -> float:
    return next(measure.find(run) or 0.0 for measure in MEASURES if measure.name.startswith("time"))


def _find_doubts(groups: Sequence[Group]) -> list[str]:
    notes = []
    for group in groups:
        seeds = [str(run.seed) for run in group.runs]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            notes.append(f"{group.label} has seed {', '.join(twice)} more than once: these are not independent")
        if unfinished := [run.found.name for run in group.runs if run.history.status not in ("done", "stopped")]:
            notes.append(f"{group.label} is not finished: {', '.join(unfinished)}")
    return notes


def list_differences(groups: Sequence[Group]) -> Table:
    """A column a group, a row a key of recipe or environment that differs."""
    rows = [(key, *map(show_value, values)) for key, values in find_differing(groups).items()]
    notes = () if rows else ("nothing but the seed differs in recipe, data, devices and versions",)
    return Table("what differs", ("key", *(group.title for group in groups)), tuple(rows), notes)


def show_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}" if abs(value) < 1e6 and not value.is_integer() else f"{value:.0f}"
    return "null" if value is None else str(value)


def values_of(group: Group, measure: Measure) -> list[float]:
    return [value for run in group.runs if (value := measure.find(run)) is not None and math.isfinite(value)]


def list_figures(groups: Sequence[Group]) -> Table:
    rows = []
    for measure in MEASURES:
        cells = [show_spread(measure, values_of(group, measure)) for group in groups]
        if any(cell != NONE for cell in cells):
            rows.append((measure.name, *cells))
    is_spread = any(len(group.runs) > 1 for group in groups)
    notes = ("mean ± standard deviation [95 % confidence interval of the mean, Student's t] of n seeds",)
    return Table("figures", ("measure", *(g.title for g in groups)), tuple(rows), notes if is_spread else ())


def show_spread(measure: Measure, values: Sequence[float]) -> str:
    """`91.20 %`, or `91.20 % ± 0.31 [90.43, 91.97] n 3`."""
    if not values:
        return NONE
    spread = describe(values)
    if spread.std is None or spread.low is None or spread.high is None:
        return measure.show(spread.mean)
    scale, digits = (100.0, 2) if measure.is_frac else (1.0, measure.digits)
    std, low, high = (f"{value * scale:,.{digits}f}" for value in (spread.std, spread.low, spread.high))
    return f"{measure.show(spread.mean)} ± {std} [{low}, {high}] n {spread.n}"


def list_tests(groups: Sequence[Group]) -> Table:
    """Welch's test of every two groups, where both have several seeds."""
    found: list[tuple[Measure, Group, Group, Difference]] = []
    for measure in (measure for measure in MEASURES if measure.is_tested):
        for first, second in itertools.combinations(groups, 2):
            if test := welch(values_of(first, measure), values_of(second, measure)):
                found.append((measure, first, second, test))
    corrected = adjust([test.p for *_, test in found])
    rows = [
        (
            *(measure.name, f"{second.label} - {first.label}", measure.show_difference(test.difference)),
            f"[{measure.show_difference(test.low)}, {measure.show_difference(test.high)}]",
            *(f"{test.t:.3f}", f"{test.df:.2f}", show_p(test.p), show_p(p)),
        )
        for (measure, first, second, test), p in zip(found, corrected, strict=True)
    ]
    columns = ("measure", "groups", "difference", "95 % interval", "t", "df", "p", "p of all together (Holm)")
    notes = () if rows else ("needs two seeds or more of two groups, and figures that vary",)
    return Table("differences over seeds (Welch's t)", columns, tuple(rows), notes)


def list_paired(groups: Sequence[Group]) -> Table:
    """McNemar's test and the paired bootstrap of every two groups' runs: of the same seed, else their first."""
    rows, notes = [], []
    for first, second in itertools.combinations(groups, 2):
        for one, other in _pair(first, second):
            match = match_runs(one, other)
            names = f"{second.label} - {first.label}, seeds {other.seed} and {one.seed}"
            if match.why:
                notes.append(f"{names}: {match.why}")
            if match.paired is not None:
                rows.append((names, *_paired_cells(match)))
    columns = (
        *("runs", "predictions", "images", "only first right", "only second right"),
        *("difference in accuracy", "95 % interval (bootstrap)", "p (McNemar, exact)"),
    )
    return Table("differences over test images", columns, tuple(rows), tuple(dict.fromkeys(notes)))


def _pair(first: Group, second: Group) -> list[tuple[Run, Run]]:
    seeds = {run.seed: run for run in reversed(second.runs)}
    same = {run.seed: (run, seeds[run.seed]) for run in reversed(first.runs) if run.seed in seeds}
    return list(reversed(same.values())) or [(first.runs[0], second.runs[0])]


def _paired_cells(match: Match) -> tuple[str, ...]:
    paired = match.paired
    assert paired is not None
    interval = f"[{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]"
    counts = (f"{n:,}" for n in (paired.num_images, paired.only_first, paired.only_second))
    return match.what, *counts, f"{100 * paired.difference:+.2f} points", interval, show_p(paired.p)


def list_classes(groups: Sequence[Group]) -> Table:
    """Mean recall of each class, and each group's less that of the first; what differs most comes first."""
    means = [_class_means(group) for group in groups]
    first, others = means[0], means[1:]
    rows = []
    for name in dict.fromkeys(name for each in means for name in each):
        values = [each.get(name) for each in means]
        deltas = [each[name] - first[name] if name in each and name in first else None for each in others]
        cells = ["-" if value is None else f"{100 * value:.2f} %" for value in values]
        shown = ["-" if delta is None else f"{100 * delta:+.2f}" for delta in deltas]
        rows.append((max((abs(delta) for delta in deltas if delta is not None), default=0.0), (name, *cells, *shown)))
    rows.sort(key=lambda row: -row[0])
    columns = ("class", *(g.title for g in groups), *(f"{g.label} - {groups[0].label}, points" for g in groups[1:]))
    notes = () if rows else ("no test figures per class",)
    return Table("test recall of each class", columns, tuple(cells for _, cells in rows), notes)


def _class_means(group: Group) -> dict[str, float]:
    found = [per_class(run) for run in group.runs]
    names = dict.fromkeys(name for each in found for name in each)
    return {name: describe([each[name] for each in found if name in each]).mean for name in names}


def show_p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def _show(measure: Measure, value: float | None) -> str:
    return NONE if value is None else measure.show(value)
