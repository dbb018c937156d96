"""Run folders as `launcher` leaves them, trained or written by hand, for the tests of commands that read them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from launcher.commands.model.evaluate.predictions import Predictions, write_predictions
from launcher.commands.model.evaluate.report import FIGURES_NAME
from launcher.commands.runs.compare.find import FoundRun
from launcher.commands.runs.compare.groups import Run, read_run
from launcher.run.folder import SUMMARY_NAME
from launcher.run.journal import read_journal
from tests.harness.workdir import LENET, WorkDir

SMALL = (LENET, "backbone.freeze=none", "train.epochs=2", "log.every=1st")


def train(workdir: WorkDir, name: str, *overrides: str) -> Path:
    assert workdir.train(*SMALL, f"run.dir=runs/{name}", *overrides) == 0
    return workdir.path / "runs" / name


def read(folder: Path) -> Run:
    return read_run(FoundRun(folder, str(folder)))


def copy(run: Path, name: str) -> Path:
    return Path(shutil.copytree(run, run.with_name(name), symlinks=True))


def rewrite(run: Path, lines: Sequence[dict[str, Any]]) -> None:
    (run / "journal.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def records(run: Path) -> list[dict[str, Any]]:
    return read_journal(run)


def summary(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / SUMMARY_NAME).read_text())
    return found


def predict(run: Path, predicted: Sequence[int], labels: Sequence[int], name: str = "test-best", **more: Any) -> Path:
    """Write predictions for these images as `launcher evaluate` does. `more`: metadata in place of its own."""
    folder = run / "evaluations" / name
    folder.mkdir(parents=True, exist_ok=True)
    ones = np.ones(len(labels), dtype=np.float32)
    predictions = Predictions(
        ids_N=np.arange(len(labels)),
        labels_N=np.array(labels),
        top_NT=np.array(predicted)[:, None],
        probs_NT=ones[:, None],
        label_probs_N=ones,
        losses_N=ones,
    )
    file = folder / "predictions.npz"
    write_predictions(predictions, [f"{i}.jpg" for i in range(len(labels))], ["a", "b", "c"], file)
    data = {"data": "shards", "data_sha256": records(run)[0]["data_sha256"]}
    checkpoint = str((run / "checkpoints/best").resolve())
    metadata = {"checkpoint": checkpoint, "split": name.partition("-")[0], "transform": "none", **data, **more}
    (folder / FIGURES_NAME).write_text(json.dumps(metadata))
    return file
