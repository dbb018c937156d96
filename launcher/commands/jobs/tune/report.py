"""The result of a search: the best recipe, a table of trials, and charts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from launcher.commands.jobs.tune.optimiser import DONE, Optimiser, Trial
from launcher.commands.jobs.tune.plan import SearchPlan
from launcher.commands.jobs.tune.search import Range, as_overrides, show_value
from launcher.errors import UserError
from launcher.recipe.parse import render_recipe
from launcher.run.charts import write_contour, write_trace
from launcher.run.console import Console
from shards.files import write_atomically

BEST_NAME = "best.yaml"
CONTOUR_POINTS = 30
"""Points along each axis of a contour chart."""
MAX_CONTOURS = 6
"""Pairs of keys with a contour chart; the first keys come first."""


def find_best(trials: Sequence[Trial]) -> Trial | None:
    """The trial with the highest score; the first of several."""
    done = [trial for trial in trials if trial.status == DONE and trial.score is not None]
    return max(done, key=lambda trial: trial.score or 0.0, default=None)


def write_best(plan: SearchPlan, trials: Sequence[Trial]) -> None:
    """Write the recipe with the values of the best trial."""
    best = find_best(trials)
    if best is None or best.score is None:
        return
    head = f"# trial {best.number} of {plan.name}: valid {plan.metric} {plan.sign * best.score:.4f}\n"
    recipe = render_recipe(plan.recipe_file, as_overrides(best.values))
    write_atomically(plan.folder / BEST_NAME, (head + recipe).encode())


def show_trials(plan: SearchPlan, trials: Sequence[Trial], console: Console) -> None:
    best = find_best(trials)
    keys = list(trials[0].values)
    rows = [
        (
            f"{trial.number}{' best' if best is not None and trial.number == best.number else ''}",
            trial.proposed_by,
            *(show_value(trial.values[key]) for key in keys),
            "-" if trial.score is None else f"{plan.sign * trial.score:.4f}",
            trial.status.lower().replace("_", " "),
        )
        for trial in trials
    ]
    console.columns(("trial", "proposed by", *keys, f"valid {plan.metric}", "status"), rows)
    if best is not None:
        console.say(f"best recipe: {plan.folder / BEST_NAME}")


def write_charts(plan: SearchPlan, optimiser: Optimiser, trials: Sequence[Trial]) -> list[str]:
    """Write `best-so-far.png`, and a contour chart for each pair of keys with a range. Notes about missing charts."""
    folder, best = plan.folder / "pictures", find_best(trials)
    if best is None:
        return []
    folder.mkdir(exist_ok=True)
    points = [(trial.number, plan.sign * trial.score) for trial in trials if trial.score is not None]
    try:
        write_trace(folder / "best-so-far.png", points, f"valid {plan.metric}", plan.sign > 0)
        ranges = [key for key, domain in plan.search.search.items() if isinstance(domain, Range)]
        for keys in itertools.islice(itertools.combinations(ranges, 2), MAX_CONTOURS):
            if not _write_contour(plan, optimiser, trials, best, keys):
                if plan.search.is_grid:
                    return ["no contour charts: every combination of values has its own trial; see the table"]
                return ["no contour charts: too few trials for a model; raise trials in the search file"]
    except UserError as error:
        return [str(error)]
    return []


def _write_contour(
    plan: SearchPlan, optimiser: Optimiser, trials: Sequence[Trial], best: Trial, keys: tuple[str, str]
) -> bool:
    """Chart the expected metric over two keys, the others as in the best trial. False while there is no model."""
    ranges = [domain for key in keys if isinstance(domain := plan.search.search[key], Range)]
    xs, ys = (_axis(each) for each in ranges)
    expected = optimiser.predict([{**best.values, keys[0]: x, keys[1]: y} for y in ys for x in xs])
    if expected is None:
        return False
    heights = float(plan.sign) * np.array(expected, np.float64).reshape(len(ys), len(xs))
    file = plan.folder / "pictures" / f"{keys[0]}-{keys[1]}.png"
    tried = [(float(t.values[keys[0]]), float(t.values[keys[1]])) for t in trials if t.score is not None]
    write_contour(file, keys, (xs, ys), heights, tried, [each.log for each in ranges], f"valid {plan.metric}, expected")
    return True


def _axis(domain: Range) -> list[float]:
    """Points of a range. Its ends are exact, as the model refuses values outside."""
    ends = float(domain.low), float(domain.high)
    if domain.whole:
        return list(map(float, np.unique(np.linspace(*ends, CONTOUR_POINTS).round())))
    return list(map(float, (np.geomspace if domain.log else np.linspace)(*ends, CONTOUR_POINTS)))
