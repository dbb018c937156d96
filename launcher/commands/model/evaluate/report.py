"""The files, charts and table of an evaluation. K classes, M mistakes."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from launcher.commands.model.evaluate.predictions import BINS, Predictions, write_predictions
from launcher.commands.model.infer import TEST_TRANSFORMS
from launcher.data.feed import ImageFeed
from launcher.errors import UserError
from launcher.metrics.names import Metrics
from launcher.run.charts import Matrix, title_of, write_confusion, write_per_class
from launcher.run.console import Row
from launcher.run.image_grid import find_cell, to_pixels, write_sheet
from launcher.run.journal import render_json
from launcher.text import show_count
from launcher.train.summary import metrics_rows
from shards.files import write_atomically

FIGURES_NAME = "figures.json"
MISTAKES = 25
COLUMNS = 5
MOST_CONFUSED = 3
"""Pairs of classes in the table."""


@dataclass(frozen=True)
class Evaluation:
    metadata: dict[str, Any]
    """Checkpoint; split, data, transform and device, by which `launcher compare` pairs evaluations; skipped samples."""
    metrics: Metrics
    confusion_KK: Matrix
    """[true, predicted]; without rows where there are too many classes."""
    predictions: Predictions
    names: Sequence[str]
    """Name of each image."""
    classes: Sequence[str]


def write_evaluation(evaluation: Evaluation, feed: ImageFeed, folder: Path) -> list[str]:
    """Write all files and return notes for the user. Raise OSError when a file cannot be written."""
    e, notes, title = evaluation, [], title_of(evaluation.metadata["split"], evaluation.metrics)
    content = {**e.metadata, "figures": e.metrics}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIGURES_NAME).unlink(missing_ok=True)  # written last: without it the evaluation is incomplete
    write_predictions(e.predictions, e.names, e.classes, folder / "predictions.npz")
    if len(e.confusion_KK):
        write_atomically(folder / "confusion.csv", _render_matrix(e.confusion_KK, e.classes).encode())
    else:
        notes.append(f"no confusion matrix: too many classes ({len(e.classes):,})")
    try:
        if len(e.confusion_KK):
            write_confusion(e.confusion_KK, e.classes, title, folder / "confusion.png")
        write_per_class(e.metrics["per_class"], title, folder / "per_class.png")
    except UserError as error:  # matplotlib is not installed
        notes.append(str(error))
    _write_mistakes(e, feed, folder / "mistakes.png")
    write_atomically(folder / FIGURES_NAME, f"{render_json(content, indent=1)}\n".encode())
    return notes


def evaluation_rows(evaluation: Evaluation, folder: Path) -> list[Row]:
    e = evaluation
    skipped = e.metrics.get("num_skipped")
    transform = "" if e.metadata["transform"] == "none" else f", {e.metadata['transform']}"
    return [
        ("checkpoint", str(e.metadata["checkpoint"])),
        ("data", f"{e.metadata['data']}{transform}"),
        *metrics_rows(e.metadata["split"], e.metrics),
        ("calibration error", f"{e.metrics['ece']:.2%}  ({BINS} bins)"),
        *([("confused most", confused)] if (confused := _name_confused(e)) else []),
        *([("skipped", show_count(skipped, "unreadable image"))] if skipped else []),
        ("folder", str(folder)),
    ]


def _name_confused(e: Evaluation) -> str:
    """`bees as ants 5x, ...`."""
    if not len(e.confusion_KK):
        return ""
    off_KK = e.confusion_KK * (1 - np.eye(len(e.classes), dtype=np.int64))
    order = np.argsort(-off_KK, axis=None, kind="stable")[:MOST_CONFUSED]
    pairs = [divmod(int(cell), len(e.classes)) for cell in order]
    return ", ".join(f"{e.classes[i]} as {e.classes[j]} {off_KK[i, j]:,}x" for i, j in pairs if off_KK[i, j])


def _render_matrix(confusion_KK: Matrix, classes: Sequence[str]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["true \\ predicted", *classes])
    writer.writerows([name, *row] for name, row in zip(classes, confusion_KK.tolist(), strict=True))
    return stream.getvalue()


def _write_mistakes(e: Evaluation, feed: ImageFeed, path: Path) -> None:
    """The most confident mistakes as the network saw them, captioned with prediction, confidence and true class."""
    rows_M = e.predictions.worst(MISTAKES)
    if not len(rows_M):
        path.unlink(missing_ok=True)  # of an earlier evaluation
        return
    [examples] = feed.batches([(0, e.predictions.ids_N[rows_M])])
    assert examples.images_BCHW is not None
    seen_BCHW = TEST_TRANSFORMS[e.metadata["transform"]](examples.images_BCHW)
    pixels = to_pixels(seen_BCHW, feed.augment.mean, feed.augment.std)
    columns = (e.predictions.top_NT[rows_M, 0], e.predictions.probs_NT[rows_M, 0], e.predictions.labels_N[rows_M])
    captions = [f"{e.classes[top]}: {prob:.0%} ({e.classes[label]})" for top, prob, label in zip(*columns, strict=True)]
    cells = list(zip(captions, pixels, strict=True))
    rows = [cells[start : start + COLUMNS] for start in range(0, len(cells), COLUMNS)]
    write_sheet(rows, find_cell(pixels.shape[1:3]), path)
