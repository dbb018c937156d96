"""The tables of a comparison, as text: console, HTML report and W&B report show the same."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from launcher.commands.runs.compare.groups import Group, Run, find_differing
from launcher.commands.runs.compare.metrics import MEASURES, NONE, Measure, read_recalls
from launcher.commands.runs.compare.predictions import match_runs
from launcher.commands.runs.compare.statistics import Paired, adjust, describe, welch
from launcher.run.folder import FINISHED
from launcher.text import show_duration

TESTED = tuple(measure for measure in MEASURES if measure.is_tested)


@dataclass(frozen=True)
class Table:
    """`notes`: how to read it, and what is missing."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def build_tables(groups: Sequence[Group]) -> list[Table]:
    """Raise RunError when stored predictions are damaged."""
    tables = [runs_table(groups), differences_table(groups), results_table(groups)]
    if len(groups) > 1:
        tables += [seeds_table(groups), images_table(groups)]
    return [*tables, classes_table(groups)]


def runs_table(groups: Sequence[Group]) -> Table:
    """A row for each run, with the measures that are tested."""
    columns = ("group", "name", "seed", "status", *(measure.name for measure in TESTED), "time", "folder")
    rows = tuple(
        (
            *(group.label, run.name, str(run.seed), run.history.status),
            *(measure.show(run.measures.get(measure.name)) for measure in TESTED),
            *(show_duration(run.measures["time, s"]), run.found.name),
        )
        for group in groups
        for run in group.runs
    )
    return Table("runs", columns, rows, tuple(_find_doubts(groups)))


def _find_doubts(groups: Sequence[Group]) -> list[str]:
    notes = []
    for group in groups:
        seeds = [str(run.seed) for run in group.runs]
        if twice := sorted({seed for seed in seeds if seeds.count(seed) > 1}):
            notes.append(f"{group.label} has seed {', '.join(twice)} more than once: these runs are not independent")
        if unfinished := [run.found.name for run in group.runs if run.history.status not in FINISHED]:
            notes.append(f"{group.label} is not finished: {', '.join(unfinished)}")
    return notes


def differences_table(groups: Sequence[Group]) -> Table:
    """A row for each key of recipe or environment that differs, a column for each group."""
    rows = tuple((key, *map(show_value, values)) for key, values in find_differing(groups).items())
    notes = () if rows else ("only the seed differs: recipe, data, devices and versions are the same",)
    return Table("differences", ("key", *(group.title for group in groups)), rows, notes)


def show_value(value: Any) -> str:
    return "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def results_table(groups: Sequence[Group]) -> Table:
    """A row for each measure that any group has, a column for each group."""
    rows = [(each.name, *(show_spread(each, values_of(group, each)) for group in groups)) for each in MEASURES]
    known = tuple(row for row in rows if set(row[1:]) != {NONE})
    has_seeds = any(len(group.runs) > 1 for group in groups)
    notes = ("mean ± standard deviation [95% confidence interval of the mean, Student's t] of n seeds",)
    return Table("results", ("measure", *(group.title for group in groups)), known, notes if has_seeds else ())


def values_of(group: Group, measure: Measure) -> list[float]:
    values = [run.measures[measure.name] for run in group.runs if measure.name in run.measures]
    return [value for value in values if math.isfinite(value)]


def show_spread(measure: Measure, values: Sequence[float]) -> str:
    """`91.20%`, or `91.20% ± 0.31 [90.43, 91.97] n 3`."""
    spread = describe(values)
    if spread is None:
        return measure.show(values[0] if values else None)
    scale, digits = (100.0, 2) if measure.is_fraction else (1.0, measure.digits)
    std, low, high = (f"{value * scale:,.{digits}f}" for value in (spread.std, spread.low, spread.high))
    return f"{measure.show(spread.mean)} ± {std} [{low}, {high}] n {spread.n}"


def seeds_table(groups: Sequence[Group]) -> Table:
    """Welch's test for every two groups with several seeds each."""
    tests = [
        (measure, first, second, test)
        for measure in TESTED
        for first, second in itertools.combinations(groups, 2)
        if (test := welch(values_of(first, measure), values_of(second, measure)))
    ]
    corrected = adjust([test.p for *_, test in tests])
    rows = tuple(
        (
            *(measure.name, f"{second.label} - {first.label}", measure.show_difference(test.difference)),
            f"[{measure.show_difference(test.low)}, {measure.show_difference(test.high)}]",
            *(f"{test.t:.3f}", f"{test.df:.2f}", show_p(test.p), show_p(p)),
        )
        for (measure, first, second, test), p in zip(tests, corrected, strict=True)
    )
    columns = ("measure", "groups", "difference", "95% interval", "t", "df", "p", "p of all together (Holm)")
    notes = () if rows else ("needs two groups with two seeds or more, and measures that vary",)
    return Table("differences over seeds (Welch's t)", columns, rows, notes)


def images_table(groups: Sequence[Group]) -> Table:
    """McNemar's test and the paired bootstrap for runs of every two groups: those of the same seed, else the first."""
    rows, notes = [], []
    for first, second in itertools.combinations(groups, 2):
        for one, other in _pair(first, second):
            match = match_runs(one, other)
            names = f"{second.label} - {first.label}, seeds {other.seed} and {one.seed}"
            if match.note:
                notes.append(f"{names}: {match.note}")
            if match.paired is not None:
                rows.append((names, match.name, *_paired_cells(match.paired)))
    columns = (
        *("runs", "predictions", "images", "only first right", "only second right"),
        *("difference in accuracy", "95% interval (bootstrap)", "p (McNemar, exact)"),
    )
    return Table("differences over test images", columns, tuple(rows), tuple(dict.fromkeys(notes)))


def _pair(first: Group, second: Group) -> list[tuple[Run, Run]]:
    seeds = {run.seed: run for run in reversed(second.runs)}
    same = {run.seed: (run, seeds[run.seed]) for run in reversed(first.runs) if run.seed in seeds}
    return list(reversed(same.values())) or [(first.runs[0], second.runs[0])]


def _paired_cells(paired: Paired) -> tuple[str, ...]:
    interval = f"[{100 * paired.low:+.2f}, {100 * paired.high:+.2f}]"
    counts = (f"{n:,}" for n in (paired.num_images, paired.only_first, paired.only_second))
    return *counts, f"{100 * paired.difference:+.2f} points", interval, show_p(paired.p)


def classes_table(groups: Sequence[Group]) -> Table:
    """Mean recall of each class, and its difference from the first group; the largest differences come first."""
    means = [_mean_recalls(group) for group in groups]
    rows = []
    for name in dict.fromkeys(name for each in means for name in each):
        first, *others = values = [each.get(name) for each in means]
        deltas = [None if first is None or each is None else 100 * (each - first) for each in others]
        cells = [NONE if value is None else f"{100 * value:.2f}%" for value in values]
        shown = [NONE if delta is None else f"{delta:+.2f}" for delta in deltas]
        rows.append((max((abs(delta) for delta in deltas if delta is not None), default=0.0), (name, *cells, *shown)))
    rows.sort(key=lambda row: -row[0])
    columns = ("class", *(g.title for g in groups), *(f"{g.label} - {groups[0].label}, points" for g in groups[1:]))
    notes = () if rows else ("no test metrics per class",)
    return Table("test recall of each class", columns, tuple(cells for _, cells in rows), notes)


def _mean_recalls(group: Group) -> dict[str, float]:
    found = [read_recalls(run.history) for run in group.runs]
    names = dict.fromkeys(name for each in found for name in each)
    return {name: fmean(each[name] for each in found if name in each) for name in names}


def show_p(p: float) -> str:
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"
