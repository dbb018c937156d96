"""The tables against summaries and journals, and against scipy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from launcher.commands.runs.compare.groups import Group, group_runs
from launcher.commands.runs.compare.metrics import MEASURES
from launcher.commands.runs.compare.tables import (
    build_tables,
    classes_table,
    differences_table,
    images_table,
    results_table,
    runs_table,
    seeds_table,
    show_spread,
)
from tests.commands.runs.run_folders import copy, predict, read, records, rewrite, summary

NAMES = ("slow-0", "slow-1", "fast-0", "fast-1")


def groups_of(runs: Path, *names: str) -> list[Group]:
    return group_runs([read(runs / name) for name in names])


def test_every_measure_is_what_the_run_wrote(runs: Path) -> None:
    [row, _] = runs_table(groups_of(runs, "slow-0", "fast-0")).rows
    own = summary(runs / "slow-0")
    assert row[:4] == ("A", "small", "0", "done")
    assert row[4:8] == (
        f"{100 * own['test']['accuracy']:.2f}%",
        f"{own['test']['loss']:.4f}",
        f"{100 * own['valid']['accuracy']:.2f}%",
        f"{own['valid']['loss']:.4f}",
    )
    cells = {row[0]: row[1] for row in results_table(groups_of(runs, "slow-0", "fast-0")).rows}
    assert cells["time, s"] == f"{own['wall_s']:,.1f}"
    assert cells["images/s"] == f"{own['train']['images_per_s']:,.1f}"
    assert cells["best epoch"] == f"{own['best']['epoch']:.1f}"
    assert cells["last valid loss"] == f"{own['valid_last']['loss']:.4f}"
    [*_, last] = [record for record in records(runs / "slow-0") if record["kind"] == "train"]
    assert cells["last train loss"] == f"{last['loss']:.4f}"


def test_without_a_summary_measures_come_from_the_journal(runs: Path) -> None:
    """Except for the time, and the speed, which is then the mean of the records."""
    with_summary = results_table(groups_of(runs, "slow-0", "fast-0")).rows
    (runs / "slow-0/summary.json").unlink()
    without = results_table(groups_of(runs, "slow-0", "fast-0")).rows
    skipped = ("time, s", "images/s")
    assert [row for row in with_summary if row[0] not in skipped] == [row for row in without if row[0] not in skipped]
    rates = [record["images_per_s"] for record in records(runs / "slow-0") if record["kind"] == "train"]
    assert {row[0]: row[1] for row in without}["images/s"] == f"{np.mean(rates):,.1f}"


def test_seeds_become_mean_and_interval(runs: Path) -> None:
    values = [summary(runs / name)["test"]["loss"] for name in NAMES[:2]]
    low, high = stats.t.interval(0.95, 1, loc=np.mean(values), scale=stats.sem(values))
    cells = {row[0]: row[1] for row in results_table(groups_of(runs, *NAMES)).rows}
    expected = f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f} [{low:.4f}, {high:.4f}] n 2"
    assert cells["test loss"] == expected
    assert show_spread(MEASURES[0], [0.5]) == "50.00%"
    assert show_spread(MEASURES[0], []) == "-"


def test_welch_tests_the_results_of_the_runs(runs: Path) -> None:
    slow, fast = ([summary(runs / f"{name}-{s}")["test"]["loss"] for s in (0, 1)] for name in ("slow", "fast"))
    theirs = stats.ttest_ind(fast, slow, equal_var=False)
    [row] = [row for row in seeds_table(groups_of(runs, *NAMES)).rows if row[0] == "test loss"]
    assert row[1:3] == ("B - A", f"{np.mean(fast) - np.mean(slow):+.4f}")
    assert row[4:7] == (f"{theirs.statistic:.3f}", f"{theirs.df:.2f}", f"{theirs.pvalue:.4f}")
    assert seeds_table(groups_of(runs, "slow-0", "fast-0")).notes == (
        "needs two groups with two seeds or more, and measures that vary",
    )


def test_runs_of_the_same_seed_are_paired(runs: Path) -> None:
    for name in NAMES:
        predict(runs / name, [0, 1, 2], [0, 1, 2 - int(name == "fast-1")])
    table = images_table(groups_of(runs, *NAMES))
    assert [row[0] for row in table.rows] == ["B - A, seeds 0 and 0"]
    assert table.rows[0][1:5] == ("test-best", "3", "0", "0")
    assert table.notes == ("B - A, seeds 1 and 1: not the same images: names or labels differ",)
    other = images_table(groups_of(runs, "slow-0", "fast-1"))
    assert other.notes[0].startswith("B - A, seeds 1 and 0: ")


def test_classes_that_differ_most_come_first(runs: Path) -> None:
    means = {
        name: {
            c: np.mean([summary(runs / f"{name}-{s}")["test"]["per_class"][c]["recall"] for s in (0, 1)])
            for c in ("class_0", "class_1", "class_2")
        }
        for name in ("slow", "fast")
    }
    rows = classes_table(groups_of(runs, *NAMES)).rows
    assert {row[0] for row in rows} == set(means["slow"])
    for name, slow, fast, delta in rows:
        assert (slow, fast) == (f"{100 * means['slow'][name]:.2f}%", f"{100 * means['fast'][name]:.2f}%")
        assert float(delta) == pytest.approx(100 * (means["fast"][name] - means["slow"][name]), abs=0.006)
    assert [abs(float(row[3])) for row in rows] == sorted((abs(float(row[3])) for row in rows), reverse=True)


def test_doubts_are_noted(runs: Path) -> None:
    copy(runs / "slow-0", "again")
    unfinished = copy(runs / "slow-1", "unfinished")
    rewrite(unfinished, records(unfinished)[:-1])
    notes = runs_table(groups_of(runs, "slow-0", "again", "unfinished")).notes
    assert notes == (
        "A has seed 0 more than once: these runs are not independent",
        "A is not finished: runs/unfinished",
    )
    assert differences_table(groups_of(runs, "slow-0", "slow-1")).notes == (
        "only the seed differs: recipe, data, devices and versions are the same",
    )


def test_a_damaged_summary_does_not_fail_the_comparison(runs: Path) -> None:
    strange = {"test": {"per_class": [1]}, "best": 3, "valid": "x", "train": {"images_per_s": "fast"}, "wall_s": None}
    (runs / "slow-0/summary.json").write_text(json.dumps(strange))
    tables = build_tables(groups_of(runs, "slow-0", "fast-0"))
    metrics = {row[0]: row[1] for row in tables[2].rows}
    evaluation = next(r for r in records(runs / "slow-0") if r.get("split") == "test")
    assert metrics["test accuracy"] == f"{100 * evaluation['accuracy']:.2f}%"
