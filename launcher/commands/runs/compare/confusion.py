"""Confusion matrices from journals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.commands.runs.compare.groups import Group, Run
from launcher.commands.runs.compare.metrics import find_evaluation


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


def find_confusion(group: Group) -> Confusion | None:
    """The sum over the runs that have a matrix of the same split and classes; None when none has one."""
    found = [one for run in group.runs if (one := _read(run)) is not None]
    alike = [one for one in found if (one.split, one.classes) == (found[0].split, found[0].classes)]
    if not alike:
        return None
    rows = tuple(tuple(map(sum, zip(*same, strict=True))) for same in zip(*(one.rows for one in alike), strict=True))
    return Confusion(alike[0].split, alike[0].classes, rows, len(alike))


def _read(run: Run) -> Confusion | None:
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
