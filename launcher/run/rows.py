"""What W&B is given of a journal: one row for each record. Plain data; needs no wandb."""

from __future__ import annotations

from typing import Any

from launcher.run.journal import Record

MAX_CELLS = 10_000
"""Rows that W&B keeps of a table."""

NOT_METRICS = {"step", "epoch", "kind", "time_s", "split"}
WORDS = ("nan", "inf", "-inf")
"""What the journal writes for numbers that JSON lacks."""


def row_of(number: int, record: Record) -> dict[str, Any]:
    """The record's numbers and words as `train/loss`, `valid/accuracy`, `event/name`, and its place on the axes.

    `number`: the record's line in the journal, from 0. It is in the row as `record`, so that it can be seen which are
    there. Lists and sections stay in the journal.
    """
    prefix = record["split"] if record["kind"] == "eval" else record["kind"]
    metrics = {
        f"{prefix}/{name}": float(value) if value in WORDS else value
        for name, value in record.items()
        if name not in NOT_METRICS and isinstance(value, int | float | str)
    }
    axes = {"record": number, "step": record["step"], "epoch": record["epoch"], "_timestamp": record["time_s"]}
    return {**metrics, **axes}


def class_rows(evaluation: Record) -> list[list[Any]]:
    """Class, recall and support of an eval record."""
    return [[name, f["recall"], f["support"]] for name, f in evaluation["per_class"].items()]


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
    """Figures of the final evaluation, as `test_accuracy`."""
    split = evaluation["split"]
    return {
        f"{split}_{name}": value
        for name, value in evaluation.items()
        if name not in NOT_METRICS and isinstance(value, int | float)
    }
