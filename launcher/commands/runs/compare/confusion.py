"""Confusion matrices from journals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from launcher.commands.runs.compare.groups import Group, Run
from launcher.commands.runs.compare.metrics import final_evaluation


@dataclass(frozen=True)
class Confusion:
    """`rows`: [true class][predicted class], images, summed over runs."""

    split: str
    classes: tuple[str, ...]
    rows: tuple[tuple[int, ...], ...]
    num_runs: int

    def pairs(self) -> list[tuple[str, str, int]]:
        """Different classes that were taken for one another, the most frequent first."""
        found = [
            (true, predicted, num)
            for true, row in zip(self.classes, self.rows, strict=True)
            for predicted, num in zip(self.classes, row, strict=True)
            if num and true != predicted
        ]
        return sorted(found, key=lambda pair: -pair[2])


def find_confusion(group: Group) -> Confusion | None:
    """Of the runs that have one of the same classes; None where none has."""
    found = [one for run in group.runs if (one := _read(run)) is not None]
    alike = [one for one in found if (one.split, one.classes) == (found[0].split, found[0].classes)]
    if not alike:
        return None
    rows = tuple(tuple(map(sum, zip(*same, strict=True))) for same in zip(*(one.rows for one in alike), strict=True))
    return Confusion(alike[0].split, alike[0].classes, rows, len(alike))


def _read(run: Run) -> Confusion | None:
    """The newest; None for one that is not square, or not of whole numbers."""
    events = [record for record in run.history.records if record.get("name") == "confusion"]
    if not events:
        return None
    split, rows = str(events[-1].get("split")), events[-1].get("rows")
    classes = final_evaluation(run, split).get("per_class")
    if not isinstance(classes, dict) or not rows or not _is_square(rows, len(classes)):
        return None
    return Confusion(split, tuple(map(str, classes)), tuple(map(tuple, rows)), 1)


def _is_square(rows: Any, side: int) -> bool:
    return (
        isinstance(rows, list)
        and len(rows) == side
        and all(isinstance(row, list) and len(row) == side and all(type(num) is int for num in row) for row in rows)
    )
