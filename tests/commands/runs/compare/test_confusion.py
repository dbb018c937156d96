"""Confusion matrices from journals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.commands.runs.compare.groups import group_runs
from launcher.commands.runs.compare.report import Confusion, find_confusion
from tests.commands.runs.run_folders import read, records, rewrite, summary


def written(run: Path) -> Any:
    [event] = [record for record in records(run) if record.get("name") == "confusion"]
    return event["rows"]


def test_matrices_of_seeds_are_added(runs: Path) -> None:
    [group] = group_runs([read(runs / "slow-0"), read(runs / "slow-1")])
    found = find_confusion(group)
    assert found is not None
    total = np.array(written(runs / "slow-0")) + np.array(written(runs / "slow-1"))
    assert (found.split, found.num_runs) == ("test", 2)
    np.testing.assert_array_equal(found.rows, total)
    assert list(found.classes) == list(summary(runs / "slow-0")["test"]["per_class"])
    accuracies = [summary(runs / f"slow-{seed}")["test"]["accuracy"] for seed in (0, 1)]
    assert np.trace(total) / total.sum() == pytest.approx(np.mean(accuracies))


def test_pairs_come_in_the_order_of_their_confusions() -> None:
    confusion = Confusion("test", ("a", "b", "c"), ((9, 1, 0), (4, 5, 2), (0, 0, 9)), 1)
    assert confusion.pairs() == [("b", "a", 4), ("b", "c", 2), ("a", "b", 1)]


@pytest.mark.parametrize("rows", [None, [], [[1, 2], [3, 4]], [[1, 2, "<b>"]] * 3, "rows", [[True, 1, 1]] * 3])
def test_a_damaged_matrix_is_none(runs: Path, rows: Any) -> None:
    changed = [{**r, "rows": rows} if r.get("name") == "confusion" else r for r in records(runs / "slow-0")]
    rewrite(runs / "slow-0", changed)
    [group] = group_runs([read(runs / "slow-0")])
    assert find_confusion(group) is None
