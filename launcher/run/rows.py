"""The rows and tables that W&B gets for the records of a journal, as plain data. Needs no wandb."""

from __future__ import annotations

from typing import Any

from launcher.run.journal import NONFINITE, Record

MAX_CELLS = 10_000
"""Rows of a table that W&B keeps."""

NOT_METRICS = {"step", "epoch", "kind", "time_s", "split"}


def row_of(number: int, record: Record) -> dict[str, Any]:
    """The record's numbers and strings as `train/loss`, `valid/accuracy`, `event/name`, and its place on the axes.

    `number`: the record's line in the journal, from 0. The row has it as `record`, which tells what W&B lacks. Lists
    and mappings stay in the journal.
    """
    prefix = record["split"] if record["kind"] == "eval" else record["kind"]
    metrics = {
        f"{prefix}/{name}": float(value) if value in NONFINITE else value
        for name, value in record.items()
        if name not in NOT_METRICS and isinstance(value, int | float | str)
    }
    axes = {"record": number, "step": record["step"], "epoch": record["epoch"], "_timestamp": record["time_s"]}
    return {**metrics, **axes}


def confusion_rows(evaluation: Record, confusion_KK: list[list[int]]) -> list[list[Any]]:
    """Actual class, predicted class and number of images; the MAX_CELLS largest numbers when there are more."""
    classes = list(evaluation["per_class"])
    cells: list[list[Any]] = [
        [actual, predicted, num]
        for actual, row in zip(classes, confusion_KK, strict=True)
        for predicted, num in zip(classes, row, strict=True)
    ]
    return cells if len(cells) <= MAX_CELLS else sorted(cells, key=lambda cell: -cell[2])[:MAX_CELLS]


def summary_of(evaluation: Record) -> dict[str, Any]:
    """Metrics of the final evaluation, as `test_accuracy`."""
    split = evaluation["split"]
    return {
        f"{split}_{name}": value
        for name, value in evaluation.items()
        if name not in NOT_METRICS and isinstance(value, int | float)
    }
