"""What a search has found: the best recipe, a table of trials, and pictures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from launcher.commands.jobs.tune.optimiser import DONE, Optimiser, Trial
from launcher.commands.jobs.tune.search import Search, Span, as_overrides, show_value, tries_all
from launcher.commands.jobs.tune.trial import Task
from launcher.errors import UserError
from launcher.recipe.parse import render_recipe
from launcher.run.charts import write_contour, write_trace
from launcher.run.console import Console
from shards.manifest import write_atomically

BEST_NAME = "best.yaml"
GRID = 30
"""Points a side of a contour picture."""
PICTURES = 6
"""Contour pictures, however many pairs of keys there are: those of the keys that come first."""


def find_best(trials: Sequence[Trial]) -> Trial | None:
    """The first of the best."""
    done = [trial for trial in trials if trial.status == DONE and trial.score is not None]
    return max(done, key=lambda trial: trial.score or 0.0, default=None)


def write_best(task: Task, trials: Sequence[Trial]) -> None:
    """The recipe with the values of the best trial, to be trained like any other."""
    best = find_best(trials)
    if best is None or best.score is None:
        return
    head = f"# trial {best.number} of {task.name}: valid {task.metric} {task.sign * best.score:.4f}\n"
    recipe = render_recipe(task.recipe_file, as_overrides(best.values))
    write_atomically(task.folder / BEST_NAME, (head + recipe).encode())


def show_trials(task: Task, trials: Sequence[Trial], console: Console) -> None:
    best = find_best(trials)
    keys = list(trials[0].values)
    rows = [
        (
            f"{trial.number}{' best' if best is not None and trial.number == best.number else ''}",
            trial.drawn_by,
            *(show_value(trial.values[key]) for key in keys),
            "-" if trial.score is None else f"{task.sign * trial.score:.4f}",
            trial.status.lower().replace("_", " "),
        )
        for trial in trials
    ]
    console.columns(("trial", "drawn by", *keys, f"valid {task.metric}", "status"), rows)
    if best is not None:
        console.say(f"best recipe: {task.folder / BEST_NAME}")


def write_pictures(task: Task, search: Search, optimiser: Optimiser, trials: Sequence[Trial]) -> list[str]:
    """`best-so-far.png`, and one picture for each pair of keys with a range; notes on what could not be drawn."""
    folder, best = task.folder / "pictures", find_best(trials)
    if best is None:
        return []
    folder.mkdir(exist_ok=True)
    points = [(trial.number, task.sign * trial.score) for trial in trials if trial.score is not None]
    try:
        write_trace(folder / "best-so-far.png", points, f"valid {task.metric}", task.sign > 0)
        pairs = itertools.combinations([key for key, each in search.search.items() if isinstance(each, Span)], 2)
        for x, y in itertools.islice(pairs, PICTURES):
            if not _write_pair(task, search, optimiser, trials, best, (x, y)):
                return [_why_no_contour(search)]
    except UserError as error:
        return [str(error)]
    return []


def _why_no_contour(search: Search) -> str:
    if tries_all(search):
        return "no contour pictures: all there is has been tried, nothing is left to be expected; see the table"
    return "no contour pictures: no model of the trials yet; let there be more of them"


def _write_pair(
    task: Task, search: Search, optimiser: Optimiser, trials: Sequence[Trial], best: Trial, keys: tuple[str, str]
) -> bool:
    """What is expected over two keys, the others as in the best trial. False while there is no model."""
    spans = [span for key in keys if isinstance(span := search.search[key], Span)]
    axes = [_axis(span) for span in spans]
    points = [{**best.values, keys[0]: x, keys[1]: y} for y in axes[1] for x in axes[0]]
    expected = optimiser.predict(points)
    if expected is None:
        return False
    heights = float(task.sign) * np.array(expected, np.float64).reshape(len(axes[1]), len(axes[0]))
    file = task.folder / "pictures" / f"{keys[0]}-{keys[1]}.png"
    tried = [(float(t.values[keys[0]]), float(t.values[keys[1]])) for t in trials if t.score is not None]
    write_contour(file, keys, axes, heights, tried, [span.log for span in spans], f"valid {task.metric}, expected")
    return True


def _axis(span: Span) -> list[float]:
    """Points between both ends, which are met exactly: values outside are refused."""
    if span.whole:
        return [*map(float, np.unique(np.linspace(span.low, span.high, GRID).round().astype(int)))]
    inner = np.linspace(0, 1, GRID)[1:-1]
    low, high = float(span.low), float(span.high)
    if span.log:
        return [low, *np.exp(math.log(low) + inner * math.log(high / low)).tolist(), high]
    return [low, *(low + inner * (high - low)).tolist(), high]
