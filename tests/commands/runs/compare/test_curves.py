"""Curves out of journals, and their picture in letters."""

from __future__ import annotations

from pathlib import Path

from launcher.commands.runs.compare.curves import BLOCKS, Line, Panel, build_panels, draw_panel
from launcher.commands.runs.compare.groups import group_runs
from tests.commands.runs.compare.made import read, records, rewrite


def test_panels_hold_every_record(runs: Path) -> None:
    rewrite(runs / "slow-1", [{**r, "loss": "nan"} if r["step"] == 2 else r for r in records(runs / "slow-1")])
    panels = build_panels(group_runs([read(runs / name) for name in ("slow-0", "slow-1", "fast-0")]))
    assert [panel.title for panel in panels] == ["train loss", "valid loss", "valid top-1", "learning rate"]
    assert [(line.label, line.group) for line in panels[0].lines] == [
        ("A small, seed 0", 0),
        ("A small, seed 1", 0),
        ("B small, seed 0", 1),
    ]
    wanted = [(r["step"], r["loss"]) for r in records(runs / "slow-0") if r["kind"] == "train"]
    assert panels[0].lines[0].points == wanted
    assert [step for step, _ in panels[0].lines[1].points] == [1, 3, 4, 5, 6]
    evaluations = [r for r in records(runs / "fast-0") if r["kind"] == "eval" and r["split"] == "valid"]
    assert panels[2].lines[2].points == [(r["step"], r["top1_frac"]) for r in evaluations]


def test_all_lines_of_a_panel_share_its_axes() -> None:
    rising = Line("up", 0, [(float(i), float(i)) for i in range(1, 9)])
    low = Line("low", 1, [(1.0, 1.0), (4.0, 1.0)])
    heading, first, second = draw_panel(Panel("loss", (rising, low)), width=8)
    assert heading == "loss: 1 to 8, steps 1 to 8"
    assert first == f"  up   {BLOCKS}  8"
    assert second == f"  low  {'▁' * 4}      1"


def test_gaps_repeat_and_flat_lines_lie_in_the_middle() -> None:
    [_, line] = draw_panel(Panel("lr", (Line("a", 0, [(1.0, 0.1), (10.0, 0.1)]),)), width=10)
    assert line == f"  a  {'▅' * 10}  0.1"
    [_, line] = draw_panel(Panel("lr", (Line("a", 0, [(5.0, 0.1)]),)), width=10)
    assert line.split() == ["a", "▅", "0.1"]


def test_a_column_is_the_mean_of_its_points() -> None:
    """The lowest and the highest half way: the middle."""
    points = [(0.0, 0.0), (1.0, 10.0), (2.0, 10.0), (3.0, 10.0)]
    [_, line] = draw_panel(Panel("loss", (Line("a", 0, points),)), width=2)
    assert line == "  a  ▅█  10"
