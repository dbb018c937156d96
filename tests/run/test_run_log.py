"""The run log: each report goes to the journal once, with the epoch of its step, and to the console where asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.metrics.names import Metrics
from launcher.run.console import TrainingConsole
from launcher.run.journal import Journal, Record, read_journal
from launcher.run.mirror import Mirror, NullMirror
from launcher.run.run_log import NullLog, Rank0Log, RunLog
from launcher.run.wandb import Mode

TRAIN: Metrics = {"loss": 0.5, "lr": 0.1, "images_per_s": 99.0, "data_wait_frac": 0.0}
VALID: Metrics = {"loss": 0.25, "accuracy": 0.75, "top5_accuracy": 1.0, "num_images": 8}


class RecordingMirror:
    """A mirror that records its calls; `failures` are those of the next call."""

    def __init__(self) -> None:
        self.mode: Mode = "online"
        self.numbers: list[int] = []
        self.exit_codes: list[int] = []
        self.failures: list[str] = []

    def log(self, number: int, record: Record) -> None:
        self.numbers.append(number)

    def take_failures(self) -> list[str]:
        taken, self.failures = self.failures, []
        return taken

    def finish(self, exit_code: int) -> list[str]:
        self.exit_codes.append(exit_code)
        self.mode = "offline"
        return self.take_failures()


def build_log(folder: Path, mirror: Mirror) -> Rank0Log:
    """The log of a training of 30 steps, 10 an epoch."""
    return Rank0Log(Journal(folder, 10, mirror.log), TrainingConsole(30, 10), mirror)


def written(folder: Path) -> list[dict[str, Any]]:
    """The records without their times."""
    return [{name: value for name, value in record.items() if name != "time_s"} for record in read_journal(folder)]


def test_an_event_is_a_record_and_is_shown_only_on_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = build_log(tmp_path, NullMirror())
    log.event(0, "started", wandb_id="abcd1234")
    log.event(10, "hang", "rank 3 hangs")
    log.event(11, "skipped_samples", "skipped 3 unreadable images", show=True, split="train")
    log.close()
    assert written(tmp_path) == [
        {"step": 0, "epoch": 0, "kind": "event", "name": "started", "wandb_id": "abcd1234"},
        {"step": 10, "epoch": 1, "kind": "event", "name": "hang", "message": "rank 3 hangs"},
        {"step": 11, "epoch": 2, "kind": "event", "name": "skipped_samples"}
        | {"message": "skipped 3 unreadable images", "split": "train"},
    ]
    assert capsys.readouterr().out == "skipped 3 unreadable images\n"


def test_a_note_is_a_record_and_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = build_log(tmp_path, NullMirror())
    log.note(21, "mind the gap")
    log.say("only shown")
    log.close()
    assert written(tmp_path) == [{"step": 21, "epoch": 3, "kind": "event", "name": "note", "message": "mind the gap"}]
    assert capsys.readouterr().out == "note: mind the gap\nonly shown\n"


def test_a_train_record_has_its_metrics_and_fields(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = build_log(tmp_path, NullMirror())
    log.train(1, TRAIN, show=False, samples=[3, 1])
    log.train(10, TRAIN, show=True)
    log.close()
    assert written(tmp_path) == [
        {"step": 1, "epoch": 1, "kind": "train", **TRAIN, "samples": [3, 1]},
        {"step": 10, "epoch": 1, "kind": "train", **TRAIN},
    ]
    assert capsys.readouterr().out == "epoch 1/3  step 10/30  loss 0.5000  lr 1.00e-01  99 images/s  data wait 0%\n"


def test_an_evaluation_is_shown_with_the_epoch_of_its_weights(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = build_log(tmp_path, NullMirror())
    log.evaluation(20, "valid", VALID, weights_step=20, is_best=True)
    log.evaluation(30, "test", VALID, weights_step=20)
    log.evaluation(30, "train", VALID, weights_step=30, show=False, C=0.5)
    log.close()
    assert written(tmp_path) == [
        {"step": 20, "epoch": 2, "kind": "eval", "split": "valid", "weights_step": 20, **VALID},
        {"step": 30, "epoch": 3, "kind": "eval", "split": "test", "weights_step": 20, **VALID},
        {"step": 30, "epoch": 3, "kind": "eval", "split": "train", "weights_step": 30, **VALID, "C": 0.5},
    ]
    metrics = "loss 0.2500  accuracy 75.00%  top-5 accuracy 100.00%  8 images"
    assert capsys.readouterr().out.splitlines() == [
        f"epoch 2/3  valid  {metrics}  best so far",
        f"epoch 2/3  test  {metrics}",
    ]


def test_a_checkpoint_is_a_record_and_a_table_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = build_log(tmp_path, NullMirror())
    log.checkpoint(10, name="step-00000010", is_best=True)
    log.table("pets", [("status", "done")])
    log.close()
    assert written(tmp_path) == [
        {"step": 10, "epoch": 1, "kind": "checkpoint", "name": "step-00000010", "is_best": True}
    ]
    assert "│ status │ done │" in capsys.readouterr().out


def test_failures_of_wandb_are_reported_with_the_next_train_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mirror = RecordingMirror()
    log = build_log(tmp_path, mirror)
    mirror.failures = ["W&B refused a record"]
    log.event(1, "note")
    log.train(2, TRAIN, show=False)
    log.train(3, TRAIN, show=False)
    log.close()
    failed = {"kind": "event", "name": "wandb_failed", "message": "W&B refused a record"}
    assert [record.get("name", record["kind"]) for record in written(tmp_path)] == [
        *("note", "train", "wandb_failed", "train")
    ]
    assert written(tmp_path)[2] == {"step": 2, "epoch": 1, **failed}
    assert capsys.readouterr().out == "W&B refused a record\n"
    assert mirror.numbers == [0, 1, 2, 3]


def test_the_end_closes_wandb_and_is_the_last_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mirror = RecordingMirror()
    log = build_log(tmp_path, mirror)
    assert log.wandb_mode == "online"
    mirror.failures = ["W&B did not finish in 10 s"]
    log.end(30, "preempted", 75)
    log.close()
    assert (log.wandb_mode, mirror.exit_codes) == ("offline", [75])
    assert [record["name"] for record in written(tmp_path)] == ["wandb_failed", "preempted"]
    assert capsys.readouterr().out == "W&B did not finish in 10 s\n"


def test_a_closed_log_has_closed_its_journal(tmp_path: Path) -> None:
    before = len([*Path("/proc/self/fd").iterdir()])
    log = build_log(tmp_path, NullMirror())
    log.close()
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_the_null_log_writes_and_shows_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    log: RunLog = NullLog()
    log.say("x")
    log.event(1, "hang", "x", show=True)
    log.note(1, "x")
    log.train(1, TRAIN, show=True)
    log.evaluation(1, "valid", VALID, weights_step=1, is_best=True)
    log.checkpoint(1, name="x")
    log.table("x", [("a", "b")])
    log.end(1, "done", 0)
    log.close()
    captured = capfd.readouterr()
    assert (captured.out, captured.err, log.wandb_mode) == ("", "", "disabled")
    assert list(tmp_path.iterdir()) == []
