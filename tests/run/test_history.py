"""Reading a run back: the records that count, how it ended, whether it runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RunError
from launcher.run.history import (
    CUT_OFF,
    RUNNING,
    as_number,
    count_worked_s,
    drop_superseded,
    find_best_step,
    find_number,
    find_status,
    read_curve,
    read_history,
    read_points,
)
from launcher.run.journal import TAIL_BYTES, Journal, read_ends
from launcher.run.lock_file import claim, is_running
from tests.commands.runs.run_folders import SMALL, rewrite
from tests.harness.workdir import WorkDir


def record(kind: str, step: int, time_s: float = 0.0, **metrics: Any) -> dict[str, Any]:
    return {"kind": kind, "step": step, "epoch": 1, "time_s": time_s, **metrics}


START = record("event", 0, name="started")


def test_steps_that_were_trained_again_count_once() -> None:
    records = [
        *(START, record("train", 1, loss=3.0), record("train", 2, loss=2.0), record("train", 3, loss=1.0)),
        *(record("event", 2, name="resumed"), record("train", 4, loss=0.5), record("event", 4, name="done")),
    ]
    assert read_curve(drop_superseded(records), "train", "loss") == {1: 3.0, 2: 2.0, 4: 0.5}
    assert len(drop_superseded(records)) == len(records) - 1


def test_a_curve_has_one_split_and_the_weights_of_its_steps() -> None:
    records = [
        record("eval", 2, split="valid", weights_step=2, loss=0.7),
        record("eval", 2, split="test", weights_step=2, loss=0.9),
        record("eval", 4, split="valid", weights_step=4, loss="nan"),
        record("eval", 4, split="valid", weights_step=2, loss=0.7),
        record("eval", 1, split="valid", weights_step=1, loss=0.8),
    ]
    curve = read_curve(records, "eval", "loss", "valid")
    assert list(curve) == [1, 2, 4]
    assert curve[2] == 0.7
    assert curve[4] != curve[4]
    assert read_points(records, "eval", "loss", "valid") == [(1.0, 0.8), (2.0, 0.7)]


def test_the_best_step_is_the_highest_accuracy_or_the_lowest_loss() -> None:
    numbers = [(1, 0.5, 0.9), (2, 0.7, 0.6), (3, 0.6, 0.4), (4, "nan", "nan")]
    records = [
        record("eval", step, split="valid", weights_step=step, accuracy=accuracy, loss=loss)
        for step, accuracy, loss in numbers
    ]
    assert (find_best_step(records, "accuracy"), find_best_step(records, "loss")) == (2, 3)
    assert find_best_step([], "loss") is None


def test_pauses_do_not_count_as_work() -> None:
    records = [
        *(record("event", 0, 100.0, name="started"), record("train", 1, 130.0)),
        *(record("event", 1, 900.0, name="resumed"), record("train", 2, 912.5)),
    ]
    assert count_worked_s(records) == 42.5


def test_only_numbers_and_nonfinite_strings_are_numbers() -> None:
    assert as_number("inf") == float("inf")
    assert [as_number(value) for value in (True, "12", None, [1])] == [None] * 4
    assert find_number({"a": {"b": 3}}, "a", "b") == 3.0
    assert find_number({"a": [3]}, "a", "b") is None


def test_the_history_of_a_finished_run_is_whole(workdir: WorkDir) -> None:
    assert workdir.train(*SMALL) == 0
    history = read_history(Path("run"))
    assert history.status == history.summary["status"] == "done"
    assert list(read_curve(history.records, "train", "loss").values()) == workdir.losses()
    assert count_worked_s(history.records) == pytest.approx(history.summary["wall_s"], abs=1.0)
    assert history.start["plan"]["total_steps"] == 6
    first, last = read_ends(Path("run"))
    assert (first, last[-1]["name"]) == (history.records[0], "done")


def test_only_the_ends_of_a_long_journal_are_read(tmp_path: Path) -> None:
    many = [START, *(record("train", step, loss=1.0) for step in range(1, 3000))]
    rewrite(tmp_path, many)
    assert (tmp_path / "journal.jsonl").stat().st_size > 2 * TAIL_BYTES
    first, last = read_ends(tmp_path)
    assert first == START
    assert last == many[-len(last) :]
    assert 0 < len(last) < 2000


def test_a_run_whose_lock_is_held_is_running(tmp_path: Path) -> None:
    records = [START, record("train", 1)]
    assert find_status(tmp_path, records) == CUT_OFF
    in_use = claim(tmp_path)
    assert is_running(tmp_path, has_ended=False)
    assert find_status(tmp_path, records) == RUNNING
    os.close(in_use)
    assert find_status(tmp_path, records) == CUT_OFF
    for ending in ("done", "early_stopped", "preempted", "failed"):
        assert find_status(tmp_path, [*records, record("event", 1, name=ending)]) == ending
    assert find_status(tmp_path, [*records, record("event", 1, name="done"), record("event", 1, name="resumed")]) == (
        CUT_OFF
    )


@pytest.mark.parametrize(
    "line", ["{", "[]", "1", '{"step": 1}', '{"step": "1", "epoch": 1, "kind": "train", "time_s": 1}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    rewrite(tmp_path, [START])
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunError, match=r"journal.jsonl: damaged: line 2 is not a record; leave this run out"):
        read_history(tmp_path)


def test_a_torn_line_is_no_record_yet(tmp_path: Path) -> None:
    Journal(tmp_path, 1).write("event", 0, name="started")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"step": 1')
    assert len(read_history(tmp_path).records) == 1
    with pytest.raises(RunError, match=r"nowhere: its journal.jsonl is missing or empty; give a run's folder"):
        read_history(tmp_path / "nowhere")
