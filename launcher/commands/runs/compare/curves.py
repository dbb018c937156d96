"""Curves of runs over their steps, and a small picture of them in letters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from launcher.commands.runs.compare.groups import Group
from launcher.run.history import read_curve

BLOCKS = "▁▂▃▄▅▆▇█"
WIDTH = 48

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """`group`: index of the run's group; runs of a group look alike."""

    label: str
    group: int
    points: Points


@dataclass(frozen=True)
class Panel:
    """`lines`: those that have points; values that are no finite number are left out."""

    title: str
    lines: tuple[Line, ...]


def build_panels(groups: Sequence[Group]) -> list[Panel]:
    """Those that have anything to show."""
    wanted = (
        ("train loss", "train", "loss", None),
        ("valid loss", "eval", "loss", "valid"),
        ("valid accuracy", "eval", "accuracy", "valid"),
        ("learning rate", "train", "lr", None),
    )
    panels = [Panel(title, tuple(_lines(groups, kind, name, split))) for title, kind, name, split in wanted]
    return [panel for panel in panels if panel.lines]


def _lines(groups: Sequence[Group], kind: str, name: str, split: str | None) -> list[Line]:
    lines = []
    for i, group in enumerate(groups):
        for run in group.runs:
            curve = read_curve(run.history.records, kind, name, split)
            points = [(float(step), value) for step, value in curve.items() if math.isfinite(value)]
            if points:
                lines.append(Line(f"{group.label} {run.name}, seed {run.seed}", i, points))
    return lines


def draw_panel(panel: Panel, width: int = WIDTH) -> list[str]:
    """A heading, then a row a line; all rows share both axes.

    A column shows the mean of what falls into it, as a block from the lowest value of the panel to the highest; a
    column that nothing falls into repeats the one before.
    """
    values = [value for line in panel.lines for _, value in line.points]
    steps = [step for line in panel.lines for step, _ in line.points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    wide = max(len(line.label) for line in panel.lines)
    rows = [f"{panel.title}: {low:.4g} to {high:.4g}, steps {first:,.0f} to {last:,.0f}"]
    for line in panel.lines:
        blocks = "".join(map(_block, _columns(line.points, first, last, width), [low] * width, [high] * width))
        rows.append(f"  {line.label:<{wide}}  {blocks}  {line.points[-1][1]:.4g}")
    return rows


def _columns(points: Points, first: float, last: float, width: int) -> list[float | None]:
    """Mean of each column; None before a line begins and after it has ended."""
    cells: list[list[float]] = [[] for _ in range(width)]
    for step, value in points:
        cells[min(width - 1, int((step - first) / ((last - first) or 1.0) * width))].append(value)
    filled = [i for i, cell in enumerate(cells) if cell]
    columns: list[float | None] = []
    for i, cell in enumerate(cells):
        before = columns[-1] if columns and i < filled[-1] else None
        columns.append(sum(cell) / len(cell) if cell else before)
    return columns


def _block(value: float | None, low: float, high: float) -> str:
    if value is None:
        return " "
    share = (value - low) / (high - low) if high > low else 0.5
    return BLOCKS[min(len(BLOCKS) - 1, int(share * len(BLOCKS)))]
