"""Curves from journals, and their sparklines."""

from __future__ import annotations

from pathlib import Path

from launcher.commands.runs.compare.curves import BLOCKS, build_panels, draw_panel
from launcher.commands.runs.compare.groups import group_runs
from launcher.run.charts import Curve, Panel
from tests.commands.runs.run_folders import read, records, rewrite


def test_panels_hold_every_record(runs: Path) -> None:
    rewrite(runs / "slow-1", [{**r, "loss": "nan"} if r["step"] == 2 else r for r in records(runs / "slow-1")])
    panels = build_panels(group_runs([read(runs / name) for name in ("slow-0", "slow-1", "fast-0")]))
    assert [panel.title for panel in panels] == ["train loss", "valid loss", "valid accuracy", "learning rate"]
    assert [(curve.label, curve.color) for curve in panels[0].curves] == [
        ("A small, seed 0", 0),
        ("A small, seed 1", 0),
        ("B small, seed 0", 1),
    ]
    wanted = [(r["step"], r["loss"]) for r in records(runs / "slow-0") if r["kind"] == "train"]
    assert panels[0].curves[0].points == wanted
    assert [step for step, _ in panels[0].curves[1].points] == [1, 3, 4, 5, 6]
    evaluations = [r for r in records(runs / "fast-0") if r["kind"] == "eval" and r["split"] == "valid"]
    assert panels[2].curves[2].points == [(r["step"], r["accuracy"]) for r in evaluations]


def test_all_curves_of_a_panel_share_its_axes() -> None:
    rising = Curve("up", 0, [(float(i), float(i)) for i in range(1, 9)])
    low = Curve("low", 1, [(1.0, 1.0), (4.0, 1.0)])
    heading, first, second = draw_panel(Panel("loss", (rising, low)), width=8)
    assert heading == "loss: 1 to 8, steps 1 to 8"
    assert first == f"  up   {BLOCKS}  8"
    assert second == f"  low  {'▁' * 4}      1"


def test_gaps_repeat_and_flat_curves_lie_in_the_middle() -> None:
    [_, line] = draw_panel(Panel("lr", (Curve("a", 0, [(1.0, 0.1), (10.0, 0.1)]),)), width=10)
    assert line == f"  a  {'▅' * 10}  0.1"
    [_, line] = draw_panel(Panel("lr", (Curve("a", 0, [(5.0, 0.1)]),)), width=10)
    assert line.split() == ["a", "▅", "0.1"]


def test_a_column_is_the_mean_of_its_points() -> None:
    """The mean of the lowest and the highest value is the middle."""
    points = [(0.0, 0.0), (1.0, 10.0), (2.0, 10.0), (3.0, 10.0)]
    [_, line] = draw_panel(Panel("loss", (Curve("a", 0, points),)), width=2)
    assert line == "  a  ▅█  10"
