"""The HTML report: well-formed, complete, safe, and interactive in a browser."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from launcher.commands.runs.compare.curves import build_panels
from launcher.commands.runs.compare.groups import Group, group_runs
from launcher.commands.runs.compare.report import MAX_POINTS, Confusion, render_confusion, render_report, thin_out
from launcher.commands.runs.compare.tables import build_tables
from tests.commands.runs.run_folders import predict, read, records, rewrite, summary

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>&\"'\x1b[2J]]>"
NAMES = ("slow-0", "slow-1", "fast-0", "fast-1")


def groups_of(runs: Path) -> list[Group]:
    return group_runs([read(runs / name) for name in NAMES])


def report(groups: list[Group]) -> str:
    return render_report(groups, build_tables(groups), build_panels(groups))


def parse(page: str) -> ElementTree.Element:
    """Parsed as XML, which fails on anything that is not closed, nested or escaped."""
    return ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))


def cells_of(table: ElementTree.Element) -> list[tuple[str, ...]]:
    return [tuple("".join(cell.itertext()) for cell in row) for row in table.iter("tr")]


def rename_classes(run: Path, name: str) -> None:
    """One of the classes has this name, in journal and summary."""

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {name if key == "class_1" else key: rename(item) for key, item in value.items()}
        return value

    rewrite(run, [rename(record) for record in records(run)])
    (run / "summary.json").write_text(json.dumps(rename(summary(run))))


def test_every_table_is_there_whole(runs: Path) -> None:
    groups = groups_of(runs)
    tables = [table for table in build_tables(groups) if table.rows]
    found = [cells_of(table) for table in parse(report(groups)).iter("table") if table.get("class") == "sortable"]
    assert found == [[table.columns, *table.rows] for table in tables]


def test_every_point_and_matrix_is_there(runs: Path) -> None:
    groups = groups_of(runs)
    page = parse(report(groups))
    [data] = [each for each in page.iter("script") if each.get("id") == "panels"]
    panels = json.loads(data.text or "")
    shown = [[[tuple(p) for p in curve["points"]] for curve in panel["curves"]] for panel in panels]
    assert shown == [[curve.points for curve in panel.curves] for panel in build_panels(groups)]
    svgs = [each for each in page.iter() if each.tag.endswith("svg")]
    assert [len([each for each in svg if each.tag.endswith("polyline")]) for svg in svgs] == [4] * 4
    confusions = [cells_of(table) for table in page.iter("table") if table.get("class") == "confusion"]
    rows = [next(r["rows"] for r in records(runs / name) if r.get("name") == "confusion") for name in NAMES]
    for shown_cells, one, other in zip(confusions, rows[::2], rows[1::2], strict=True):
        added = [[a + b for a, b in zip(*pair, strict=True)] for pair in zip(one, other, strict=True)]
        assert [[int(cell) for cell in row[1:]] for row in shown_cells[1:]] == added


def test_curves_lie_where_their_values_are(runs: Path) -> None:
    """The lowest value at the bottom, the highest at the top, the last step at the right."""
    page = parse(report(groups_of(runs)))
    svg = next(each for each in page.iter() if each.tag.endswith("svg"))
    places = [
        tuple(map(float, place.split(",")))
        for line in svg.iter()
        if line.tag.endswith("polyline")
        for place in line.attrib["points"].split()
    ]
    assert (min(x for x, _ in places), max(x for x, _ in places)) == (70.0, 940.0)
    assert (min(y for _, y in places), max(y for _, y in places)) == (12.0, 228.0)


def test_hostile_text_stays_text(runs: Path) -> None:
    rename_classes(runs / "slow-0", HOSTILE)
    lock = runs / "slow-0/recipe.lock.yaml"
    lock.write_text(lock.read_text().replace("name: small", f"name: {json.dumps(HOSTILE)}"))
    page = report(groups_of(runs))
    root = parse(page)
    assert len(list(root.iter("script"))) == 2
    assert list(root.iter("img")) == []
    assert "\x1b" not in page
    assert page.count("</script>") == 2
    shown = HOSTILE.replace("\x1b", r"\x1b")
    assert html.escape(shown) in page
    assert any(shown in row for table in root.iter("table") for row in cells_of(table))


def test_nothing_is_loaded(runs: Path) -> None:
    page = report(groups_of(runs))
    assert re.findall(r"(?:src|href|action)\s*=|url\(|@import|fetch\(|XMLHttp", page) == []
    assert "default-src 'none'" in page


def test_mistakes_are_in_the_page(runs: Path) -> None:
    predict(runs / "fast-1", [0, 1, 2], [0, 1, 1])
    content = b"\x89PNG of mistakes"
    (runs / "fast-1/evaluations/test-best/mistakes.png").write_bytes(content)
    page = parse(report(groups_of(runs)))
    [image] = page.iter("img")
    assert base64.b64decode(image.attrib["src"].removeprefix("data:image/png;base64,")) == content
    notes = [each.text or "" for each in page.iter("p") if each.get("class") == "note"]
    assert f"no grid of mistakes: launcher evaluate {runs}/slow-0 writes it" in notes
    assert [note for note in notes if note.startswith(f"{runs}/fast-1, test-best: the most certain mistakes")]


def test_many_classes_become_the_pairs_confused_most(runs: Path) -> None:
    K = 61
    rows = tuple(tuple(7 if i == j else 3 if (i, j) == (5, 9) else 0 for j in range(K)) for i in range(K))
    [group] = group_runs([read(runs / "slow-0")])
    shown = render_confusion(group, Confusion("test", tuple(f"c{i}" for i in range(K)), rows, 1))
    assert "<td>c5</td><td>c9</td><td>3</td>" in shown
    assert shown.count("<tr>") == 2


def test_long_curves_are_thinned_evenly_to_their_ends() -> None:
    points = [(float(i), float(i)) for i in range(12345)]
    thin = thin_out(points)
    assert (len(thin), thin[0], thin[-1]) == (MAX_POINTS, points[0], points[-1])
    gaps = {after[0] - before[0] for before, after in itertools.pairwise(thin)}
    assert gaps <= {12.0, 13.0}
    assert thin_out(points[:5]) == points[:5]


@pytest.mark.skipif(BROWSER is None, reason="no chromium here")
def test_in_a_browser_tables_sort_and_curves_show_their_values(runs: Path) -> None:
    rename_classes(runs / "slow-0", HOSTILE)
    groups = groups_of(runs)
    probe = """<script>
const found = [];
window.alert = () => found.push("alert");
window.onerror = (message) => found.push(message);
const table = document.querySelector("table.sortable"), heads = table.tHead.rows[0].cells;
const column = () => Array.from(table.tBodies[0].rows, row => row.cells[5].textContent);
heads[5].click(); found.push(column()); heads[5].click(); found.push(column());
const svg = document.querySelector("svg.panel"), box = svg.getBoundingClientRect();
svg.dispatchEvent(new MouseEvent("mousemove", {clientX: box.left + box.width * 940 / 960, clientY: box.top + 20}));
found.push(Array.from(svg.nextElementSibling.children, s => s.textContent));
document.body.replaceChildren(); document.title = JSON.stringify(found);
</script></body>"""
    file = Path("page.html").absolute()
    file.write_text(report(groups).replace("</body>", probe))
    command = [
        str(BROWSER),
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        f"--user-data-dir={file.parent / 'profile'}",
    ]
    ended = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=100)
    title = re.search(r"<title>(.*)</title>", ended.stdout)
    assert title is not None, ended.stderr
    rising, falling, values = json.loads(html.unescape(title[1]))
    losses = [f"{summary(runs / name)['test']['loss']:.4f}" for name in NAMES]
    assert rising == sorted(losses, key=float)
    assert falling == rising[::-1]
    curves = build_panels(groups)[0].curves
    assert [value.split(": ")[0] for value in values] == [f"{curve.label}, step 6" for curve in curves]
    assert [float(value.split(": ")[1]) for value in values] == pytest.approx(
        [curve.points[-1][1] for curve in curves], rel=1e-4
    )
