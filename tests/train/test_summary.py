"""`summary.json` and the final table."""

from __future__ import annotations

import json

from launcher.checkpoint.state import Best, Progress
from launcher.metrics.names import Metrics
from launcher.train.summary import build_summary, metrics_rows, summary_rows, write_summary
from tests.harness.workdir import LENET, WorkDir

VALID: Metrics = {
    "loss": 0.25,
    "accuracy": 0.75,
    "num_images": 12,
    "per_class": {
        "cat": {"recall": 1.0, "support": 4},
        "dog": {"recall": 0.5, "support": 4},
        "emu": {"recall": 0.75, "support": 4},
        "yak": {"recall": None, "support": 0},
    },
}
BEST = Best(3, 1, "accuracy", 0.75, VALID)


def test_the_summary_of_a_run_has_the_keys_that_tools_read(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    summary = build_summary(parts.job, parts.inputs, Progress(6, BEST, last_valid=VALID), "done", "disabled", VALID)
    write_summary(parts.job, summary)
    found = json.loads((workdir.path / "run/summary.json").read_text())
    assert found["status"] == "done"
    assert found["valid"]["accuracy"] == found["test"]["accuracy"] == 0.75
    assert found["valid"]["num_images"] == found["test"]["num_images"] == 12
    assert (found["world_size"], found["steps_done"], found["epochs_done"]) == (1, 6, 2)
    assert found["best"] == {"step": 3, "epoch": 1, "metric": "accuracy", "value": 0.75}
    assert found["wall_s"] >= 0
    assert found["skipped_samples"] == {}


def test_a_run_without_an_evaluation_has_a_summary_too(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    summary = build_summary(parts.job, parts.inputs, Progress(1), "failed", "disabled")
    assert (summary["valid"], summary["best"]) == (None, None)
    assert "test" not in summary
    rows = dict(summary_rows(summary, "run"))
    assert (rows["status"], rows["epochs"], rows["folder"]) == ("failed", "0 (1 steps of 12 images)", "run")
    assert "best epoch" not in rows


def test_the_table_says_what_a_person_wants_to_know_first(workdir: WorkDir) -> None:
    parts = workdir.build(LENET)
    rows = dict(summary_rows(build_summary(parts.job, parts.inputs, Progress(6, BEST), "done", "disabled"), "run"))
    assert rows["best epoch"] == "1, by valid accuracy 75.00%"
    assert rows["valid"] == "loss 0.2500  accuracy 75.00%  (12 images)"
    assert next(iter(rows)) == "status"


def test_the_worst_classes_come_first_and_empty_ones_not_at_all() -> None:
    assert metrics_rows("valid", VALID)[1] == ("valid, worst classes", "dog 50.0%, emu 75.0%, cat 100.0%")
    one = {**VALID, "per_class": {"cat": {"recall": 1.0, "support": 4}}}
    assert len(metrics_rows("valid", one)) == 1
