"""The comparison as one HTML page that needs no other file. It is well-formed XML, too, and all text is escaped."""

from __future__ import annotations

import base64
import html
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from launcher.commands.runs.compare.curves import Points, find_limits
from launcher.commands.runs.compare.groups import Group, Run
from launcher.commands.runs.compare.metrics import find_evaluation
from launcher.commands.runs.compare.page import COLORS, POLICY, SCRIPT, STYLE
from launcher.commands.runs.compare.predictions import find_mistakes, how_to_evaluate
from launcher.commands.runs.compare.tables import Table
from launcher.run.charts import Panel
from launcher.text import show_count
from shards.printable import printable

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 260, 70, 940, 12, 228
"""Size of a chart, and the sides of the part of it that curves are drawn in."""
MAX_POINTS = 1000
"""Points of a curve in the page."""
MAX_CLASSES = 60
"""Classes of a confusion matrix that is shown whole."""
MAX_PAIRS = 100
"""Pairs of classes that are shown in place of a larger matrix: those confused most."""


@dataclass(frozen=True)
class Confusion:
    """`rows`: [true class][predicted class], images, summed over runs."""

    split: str
    classes: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    num_runs: int

    def pairs(self) -> list[tuple[str, str, int]]:
        """True class, predicted class and images of all confusions, the most frequent first."""
        found = [
            (true, predicted, num)
            for true, row in zip(self.classes, self.rows, strict=True)
            for predicted, num in zip(self.classes, row, strict=True)
            if num and true != predicted
        ]
        return sorted(found, key=lambda pair: -pair[2])


def render_report(groups: Sequence[Group], tables: Sequence[Table], panels: Sequence[Panel]) -> str:
    thin = [replace(panel, curves=[replace(c, points=thin_out(c.points)) for c in panel.curves]) for panel in panels]
    title = escape(" / ".join(group.title for group in groups))
    parts = [
        f"<h1>{title}</h1>",
        *map(render_table, tables),
        "<h2>curves</h2>",
        _note(f"of a curve with more than {MAX_POINTS:,} points, {MAX_POINTS:,} are drawn"),
        *map(render_panel, thin, itertools.count()),
        "<h2>confusion matrices</h2>",
        *(render_confusion(group, find_confusion(group)) for group in groups),
        "<h2>mistakes</h2>",
        *map(render_mistakes, groups),
    ]
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><meta http-equiv="Content-Security-Policy" content="{POLICY}"/>
<title>{title}</title>
<style>{STYLE}</style></head>
<body>{body}
<script type="application/json" id="panels">{_script_json([_panel_data(panel) for panel in thin])}</script>
<script>//<![CDATA[
{SCRIPT}
//]]></script>
</body></html>
"""


def render_table(table: Table) -> str:
    rows = "\n".join(f"<tr>{_cells('td', row)}</tr>" for row in table.rows)
    whole = f"<thead><tr>{_cells('th', table.columns)}</tr></thead><tbody>\n{rows}\n</tbody>"
    body = f'<div class="wide"><table class="sortable">{whole}</table></div>' if table.rows else ""
    return "\n".join([f"<h2>{escape(table.title)}</h2>", body, *map(_note, table.notes)])


def render_panel(panel: Panel, number: int) -> str:
    """A chart, and below it the place where the values under the pointer appear."""
    first, last, low, high = find_limits(panel)
    lines = "\n".join(
        f'<polyline stroke="{_color(curve.color)}" points="{_path(curve.points, first, last, low, high)}">'
        f"<title>{escape(curve.label)}</title></polyline>"
        for curve in panel.curves
    )
    legend = " ".join(
        f'<span style="color: {_color(curve.color)}">{escape(curve.label)}: {curve.points[-1][1]:.5g}</span>'
        for curve in panel.curves
    )
    return f"""<h3>{escape(panel.title)}</h3><p class="values">{legend}</p>
<svg class="panel" data-panel="{number}" viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">
<text x="4" y="{TOP + 10}">{high:.4g}</text><text x="4" y="{BOTTOM}">{low:.4g}</text>
<text x="{LEFT}" y="{HEIGHT - 8}">{first:,.0f}</text>
<text x="{RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step {last:,.0f}</text>
{lines}
<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{BOTTOM}"/></svg><p class="values"></p>"""


def find_confusion(group: Group) -> Confusion | None:
    """The sum over the runs that have a matrix of the same split and classes; None when none has one."""
    found = [one for run in group.runs if (one := _read_confusion(run)) is not None]
    alike = [one for one in found if (one.split, one.classes) == (found[0].split, found[0].classes)]
    if not alike:
        return None
    rows = tuple(tuple(map(sum, zip(*same, strict=True))) for same in zip(*(one.rows for one in alike), strict=True))
    return Confusion(alike[0].split, alike[0].classes, rows, len(alike))


def _read_confusion(run: Run) -> Confusion | None:
    """The newest; None when it is not a square matrix of whole numbers."""
    event = next((each for each in reversed(run.history.records) if each.get("name") == "confusion"), {})
    split, rows = str(event.get("split")), event.get("rows")
    classes = find_evaluation(run.history, split).get("per_class")
    if not isinstance(classes, dict) or not rows or not _is_square(rows, len(classes)):
        return None
    return Confusion(split, tuple(map(str, classes)), tuple(map(tuple, rows)), 1)


def _is_square(rows: Any, side: int) -> bool:
    is_list = isinstance(rows, list) and len(rows) == side
    return is_list and all(isinstance(row, list) and [*map(type, row)] == [int] * side for row in rows)


def render_confusion(group: Group, confusion: Confusion | None) -> str:
    """Rows are true classes, columns predicted ones; the darker, the larger a cell is in its row."""
    heading = f"<h3>{escape(group.title)}</h3>"
    if confusion is None:
        return heading + _note("no confusion matrix in the journal")
    runs = show_count(confusion.num_runs, "run")
    heading += _note(f"{confusion.split}, sum of {runs}; rows are true classes")
    if len(confusion.classes) > MAX_CLASSES:
        pairs = [(true, predicted, f"{num:,}") for true, predicted, num in confusion.pairs()[:MAX_PAIRS]]
        title = f"the {len(pairs)} pairs of classes confused most"
        return heading + render_table(Table(title, ("true", "predicted", "images"), tuple(pairs)))
    rows = "\n".join(
        f"<tr>{_cells('th', [name])}{''.join(_confusion_cell(num, sum(row)) for num in row)}</tr>"
        for name, row in zip(confusion.classes, confusion.rows, strict=True)
    )
    head = f"<tr><th></th>{_cells('th', confusion.classes)}</tr>"
    return f'{heading}<div class="wide"><table class="confusion">{head}\n{rows}\n</table></div>'


def _confusion_cell(num: int, total: int) -> str:
    frac = num / total if total else 0.0
    return f'<td style="background: rgba(66, 105, 208, {0.75 * frac:.3f})">{num}</td>'


def render_mistakes(group: Group) -> str:
    """The grid of mistakes that `launcher evaluate` has written for the first run that has one."""
    heading = f"<h3>{escape(group.title)}</h3>"
    run, file = next(((run, file) for run in group.runs if (file := find_mistakes(run))), (group.runs[0], None))
    if file is None:
        return heading + _note(f"no grid of mistakes: {how_to_evaluate(run)} writes it")
    what = f"{run.found.name}, {file.parent.name}: the most certain mistakes, each below its predicted (and true) class"
    data = base64.b64encode(file.read_bytes()).decode()
    return f'{heading}{_note(what)}\n<img alt="mistakes of {escape(group.title)}" src="data:image/png;base64,{data}"/>'


def thin_out(points: Points) -> Points:
    """At most MAX_POINTS, evenly chosen, with the first and the last."""
    if len(points) <= MAX_POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]


def escape(text: str) -> str:
    return html.escape(printable(text))


def _cells(tag: str, texts: Iterable[str]) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _path(points: Points, first: float, last: float, low: float, high: float) -> str:
    """A single point becomes a short dash, which can be seen."""
    x_scale, y_scale = (RIGHT - LEFT) / ((last - first) or 1.0), (BOTTOM - TOP) / ((high - low) or 1.0)
    places = [(LEFT + (step - first) * x_scale, BOTTOM - (value - low) * y_scale) for step, value in points]
    if len(places) == 1:
        places.append((places[0][0] + 4, places[0][1]))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _panel_data(panel: Panel) -> dict[str, object]:
    """The part of a panel that the script needs."""
    first, last, _, _ = find_limits(panel)
    curves = [{"label": printable(c.label), "color": _color(c.color), "points": c.points} for c in panel.curves]
    return {"width": WIDTH, "left": LEFT, "right": RIGHT, "first": first, "last": last, "curves": curves}


def _script_json(value: object) -> str:
    """Escaped, so that nothing in it ends the script or is read as markup."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]
