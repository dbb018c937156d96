"""What W&B is given of a journal: one row for each record. Plain data; needs no wandb."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from launcher.run.journal import Record

MAX_CELLS = 10_000
"""Rows that W&B keeps of a table."""

NOT_FIGURES = {"step", "epoch", "kind", "time_s", "split"}
WORDS = ("nan", "inf", "-inf")
"""What the journal writes for numbers that JSON lacks."""

TOP5_CLASSES = 5
"""Of so many or fewer the five best are all: their top-5 accuracy is always 1, and is not shown."""


def shows_top5(evaluation: Mapping[str, Any]) -> bool:
    classes = evaluation.get("per_class")
    return not (isinstance(classes, dict) and len(classes) <= TOP5_CLASSES)


def row_of(number: int, record: Record) -> dict[str, Any]:
    """The record's numbers and words as `train/loss`, `valid/top1_frac`, `event/name`, and its place on the axes.

    `number`: the record's line in the journal, from 0. It is in the row as `record`, so that it can be seen which are
    there. Lists and sections stay in the journal.
    """
    prefix = record["split"] if record["kind"] == "eval" else record["kind"]
    figures = {
        f"{prefix}/{name}": float(value) if value in WORDS else value
        for name, value in record.items()
        if name not in NOT_FIGURES and isinstance(value, int | float | str)
    }
    axes = {"record": number, "step": record["step"], "epoch": record["epoch"], "_timestamp": record["time_s"]}
    return {**figures, **axes}


def class_rows(evaluation: Record) -> list[list[Any]]:
    """Class, top1_frac and num_images of an eval record."""
    return [[name, f["top1_frac"], f["num_images"]] for name, f in evaluation["per_class"].items()]


def confusion_rows(evaluation: Record, confusion_KK: list[list[int]]) -> list[list[Any]]:
    """Actual class, predicted class, images; of many classes the fullest MAX_CELLS."""
    classes = list(evaluation["per_class"])
    cells: list[list[Any]] = [
        [actual, predicted, num]
        for actual, row in zip(classes, confusion_KK, strict=True)
        for predicted, num in zip(classes, row, strict=True)
    ]
    return cells if len(cells) <= MAX_CELLS else sorted(cells, key=lambda cell: -cell[2])[:MAX_CELLS]


def summary_of(evaluation: Record) -> dict[str, Any]:
    """Figures of the final evaluation, as `test_top1_frac`."""
    split = evaluation["split"]
    return {
        f"{split}_{name}": value
        for name, value in evaluation.items()
        if name not in NOT_FIGURES and isinstance(value, int | float)
    }
