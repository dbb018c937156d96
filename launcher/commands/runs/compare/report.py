"""The comparison as one HTML page that needs nothing else. Well-formed as XML, too; every text in it is escaped."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Sequence

from launcher.commands.runs.compare.confusion import Confusion, find_confusion
from launcher.commands.runs.compare.curves import Line, Panel, Points
from launcher.commands.runs.compare.groups import Group
from launcher.commands.runs.compare.page import COLOURS, POLICY, SCRIPT, STYLE
from launcher.commands.runs.compare.predictions import find_mistakes, how_to_judge
from launcher.commands.runs.compare.tables import Table
from shards.printable import printable

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 960, 260, 70, 940, 12, 228
"""Of a chart, and of the part of it that curves are drawn in."""

MAX_POINTS = 1000
"""Of a curve in the page."""

MAX_CLASSES = 60
"""Of a confusion matrix that is shown whole."""

MAX_PAIRS = 100
"""Of classes confused most, where there are more."""


def escape(text: str) -> str:
    return html.escape(printable(text))


def render_report(groups: Sequence[Group], tables: Sequence[Table], panels: Sequence[Panel]) -> str:
    thin = [
        Panel(p.title, tuple(Line(line.label, line.group, thin_out(line.points)) for line in p.lines)) for p in panels
    ]
    title = escape(" / ".join(group.title for group in groups))
    charts = "\n".join(render_panel(panel, i) for i, panel in enumerate(thin))
    shown = "\n".join(map(render_table, tables))
    confusions = "\n".join(render_confusion(group, find_confusion(group)) for group in groups)
    mistakes = "\n".join(map(render_mistakes, groups))
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><meta http-equiv="Content-Security-Policy" content="{POLICY}"/>
<title>{title}</title>
<style>{STYLE}</style></head>
<body><h1>{title}</h1>
{shown}
<h2>curves</h2>
<p class="note">of more than {MAX_POINTS:,} points, {MAX_POINTS:,} are drawn</p>
{charts}
<h2>confusion matrices</h2>
{confusions}
<h2>mistakes</h2>
{mistakes}
<script type="application/json" id="panels">{_script_json([_metadata(panel) for panel in thin])}</script>
<script>//<![CDATA[
{SCRIPT}
//]]></script>
</body></html>
"""


def render_table(table: Table) -> str:
    notes = "".join(f'<p class="note">{escape(note)}</p>\n' for note in table.notes)
    head = "".join(f"<th>{escape(name)}</th>" for name in table.columns)
    rows = "\n".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows)
    whole = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{rows}\n</tbody></table>'
    body = f'<div class="wide">{whole}</div>' if table.rows else ""
    return f"<h2>{escape(table.title)}</h2>\n{body}\n{notes}"


def render_panel(panel: Panel, number: int) -> str:
    """A chart, and below it the place where a pointer's values appear."""
    first, last, low, high = _limits(panel)
    lines = "\n".join(
        f'<polyline stroke="{_colour(line.group)}" points="{_path(line.points, first, last, low, high)}">'
        f"<title>{escape(line.label)}</title></polyline>"
        for line in panel.lines
    )
    legend = " ".join(
        f'<span style="color: {_colour(line.group)}">{escape(line.label)}: {line.points[-1][1]:.5g}</span>'
        for line in panel.lines
    )
    return f"""<h3>{escape(panel.title)}</h3><p class="values">{legend}</p>
<svg class="panel" data-panel="{number}" viewBox="0 0 {WIDTH} {HEIGHT}" xmlns="http://www.w3.org/2000/svg">
<text x="4" y="{TOP + 10}">{high:.4g}</text><text x="4" y="{BOTTOM}">{low:.4g}</text>
<text x="{LEFT}" y="{HEIGHT - 8}">{first:,.0f}</text>
<text x="{RIGHT}" y="{HEIGHT - 8}" text-anchor="end">step {last:,.0f}</text>
{lines}
<line class="cursor" x1="0" x2="0" y1="{TOP}" y2="{BOTTOM}"/></svg><p class="values"></p>"""


def render_confusion(group: Group, confusion: Confusion | None) -> str:
    """Rows are true classes, columns predicted ones; darker is more of a row."""
    if confusion is None:
        return f'<h3>{escape(group.title)}</h3><p class="note">no confusion matrix in the journal</p>'
    what = f"{confusion.split}, sum of {confusion.num_runs} run{'s' if confusion.num_runs > 1 else ''}"
    heading = f'<h3>{escape(group.title)}</h3><p class="note">{escape(what)}; a row for each true class</p>'
    if len(confusion.classes) > MAX_CLASSES:
        pairs = [(true, predicted, f"{num:,}") for true, predicted, num in confusion.pairs()[:MAX_PAIRS]]
        title = f"the {len(pairs)} pairs of classes confused most"
        return heading + render_table(Table(title, ("true", "predicted", "images"), tuple(pairs)))
    head = "".join(f"<th>{escape(name)}</th>" for name in confusion.classes)
    rows = "\n".join(
        f"<tr><th>{escape(name)}</th>{''.join(_confusion_cell(num, sum(row)) for num in row)}</tr>"
        for name, row in zip(confusion.classes, confusion.rows, strict=True)
    )
    return f'{heading}<div class="wide"><table class="confusion"><tr><th></th>{head}</tr>\n{rows}\n</table></div>'


def render_mistakes(group: Group) -> str:
    """What `launcher evaluate` has drawn of the first run that has some."""
    heading = f"<h3>{escape(group.title)}</h3>"
    found = ((run, picture) for run in group.runs if (picture := find_mistakes(run)))
    run, picture = next(found, (group.runs[0], None))
    if picture is None:
        return f'{heading}<p class="note">no picture of them: {escape(how_to_judge(run))} draws it</p>'
    what = f"{run.found.name}, {picture.parent.name}: the most certain ones, each under what was said (and is true)"
    data = base64.b64encode(picture.read_bytes()).decode()
    image = f'<img alt="mistakes of {escape(group.title)}" src="data:image/png;base64,{data}"/>'
    return f'{heading}<p class="note">{escape(what)}</p>\n{image}'


def _confusion_cell(num: int, total: int) -> str:
    share = num / total if total else 0.0
    return f'<td style="background: rgba(66, 105, 208, {0.75 * share:.3f})">{num}</td>'


def thin_out(points: Points) -> Points:
    """Evenly chosen, the last among them."""
    if len(points) <= MAX_POINTS:
        return points
    return [points[round(i * (len(points) - 1) / (MAX_POINTS - 1))] for i in range(MAX_POINTS)]


def _limits(panel: Panel) -> tuple[float, float, float, float]:
    """First and last step, lowest and highest value."""
    steps = [step for line in panel.lines for step, _ in line.points]
    values = [value for line in panel.lines for _, value in line.points]
    return min(steps), max(steps), min(values), max(values)


def _path(points: Points, first: float, last: float, low: float, high: float) -> str:
    """A single point becomes a short dash, which can be seen."""
    places = [
        (
            LEFT + (step - first) / ((last - first) or 1.0) * (RIGHT - LEFT),
            BOTTOM - (value - low) / ((high - low) or 1.0) * (BOTTOM - TOP),
        )
        for step, value in points
    ]
    if len(places) == 1:
        places.append((places[0][0] + 4, places[0][1]))
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in places)


def _metadata(panel: Panel) -> dict[str, object]:
    first, last, _, _ = _limits(panel)
    lines = [
        {"label": printable(line.label), "colour": _colour(line.group), "points": line.points} for line in panel.lines
    ]
    return {"width": WIDTH, "left": LEFT, "right": RIGHT, "first": first, "last": last, "lines": lines}


def _script_json(value: object) -> str:
    """Nothing in it can end the script, or be taken for markup."""
    text = json.dumps(value, allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def _colour(group: int) -> str:
    return COLOURS[group % len(COLOURS)]
