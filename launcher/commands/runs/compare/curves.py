"""Curves of runs over their steps, and sparklines of them for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan

import numpy as np
import numpy.typing as npt

from launcher.commands.runs.compare.groups import Group
from launcher.run.charts import Curve, Panel
from launcher.run.history import read_points

PANELS = (
    ("train loss", "train", "loss", None),
    ("valid loss", "eval", "loss", "valid"),
    ("valid accuracy", "eval", "accuracy", "valid"),
    ("learning rate", "train", "lr", None),
)
"""Title, kind of record, metric and split."""
BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 48
"""Columns of a sparkline."""

Points = Sequence[tuple[float, float]]


def build_panels(groups: Sequence[Group]) -> list[Panel]:
    """The panels that have any points. Curves of one group have one color."""
    panels = []
    for title, kind, name, split in PANELS:
        curves = [
            Curve(f"{group.label} {run.name}, seed {run.seed}", i, points)
            for i, group in enumerate(groups)
            for run in group.runs
            if (points := read_points(run.history.records, kind, name, split))
        ]
        if curves:
            panels.append(Panel(title, curves))
    return panels


def find_limits(panel: Panel) -> tuple[float, float, float, float]:
    """First and last step, lowest and highest value."""
    steps, values = zip(*(point for curve in panel.curves for point in curve.points), strict=True)
    return min(steps), max(steps), min(values), max(values)


def draw_panel(panel: Panel, width: int = WIDTH) -> list[str]:
    """A heading, then a sparkline and the last value of each curve. All curves share both axes."""
    first, last, low, high = find_limits(panel)
    longest = max(len(curve.label) for curve in panel.curves)
    lines = [f"{panel.title}: {low:.4g} to {high:.4g}, steps {first:,.0f} to {last:,.0f}"]
    for curve in panel.curves:
        means = _column_means(curve.points, first, last, width)
        fracs = (means - low) / (high - low) if high > low else means * 0 + 0.5  # flat curves in the middle
        blocks = "".join(" " if isnan(frac) else BLOCKS[min(int(frac * 8), 7)] for frac in fracs)
        lines.append(f"  {curve.label:<{longest}}  {blocks}  {curve.points[-1][1]:.4g}")
    return lines


def _column_means(points: Points, first: float, last: float, width: int) -> npt.NDArray[np.float64]:
    """Mean of the points in each column; one without points repeats the one before. NaN outside of the curve."""
    steps, values = np.array(points).T
    columns = np.minimum(((steps - first) / ((last - first) or 1.0) * width).astype(int), width - 1)
    counts, sums = np.bincount(columns, minlength=width), np.bincount(columns, values, width)
    filled = np.maximum.accumulate(np.where(counts > 0, np.arange(width), columns[0]))
    means: npt.NDArray[np.float64] = sums[filled] / counts[filled]
    means[: columns[0]] = means[columns[-1] + 1 :] = np.nan
    return means
