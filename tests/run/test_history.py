"""What a run's folder says: the records that count, how it ended, whether it runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from launcher.errors import RunError
from launcher.run.folder import claim
from launcher.run.history import (
    CUT_OFF,
    RUNNING,
    as_number,
    count_worked_s,
    drop_superseded,
    find_number,
    find_status,
    is_running,
    read_curve,
    read_history,
)
from launcher.run.journal import TAIL_BYTES, Journal, read_ends
from tests.commands.runs.compare.made import SMALL, rewrite
from tests.harness.workdir import WorkDir


def record(kind: str, step: int, time_s: float = 0.0, **metrics: Any) -> dict[str, Any]:
    return {"kind": kind, "step": step, "epoch": 1, "time_s": time_s, **metrics}


START = record("event", 0, name="started")


def test_steps_that_were_done_again_count_once() -> None:
    records = [
        *(START, record("train", 1, loss=3.0), record("train", 2, loss=2.0), record("train", 3, loss=1.0)),
        *(record("event", 2, name="resumed"), record("train", 4, loss=0.5), record("event", 4, name="done")),
    ]
    assert read_curve(drop_superseded(records), "train", "loss") == {1: 3.0, 2: 2.0, 4: 0.5}
    assert len(drop_superseded(records)) == len(records) - 1


def test_a_curve_is_of_one_split_and_of_its_own_weights() -> None:
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


def test_pauses_are_no_work() -> None:
    records = [
        *(record("event", 0, 100.0, name="started"), record("train", 1, 130.0)),
        *(record("event", 1, 900.0, name="resumed"), record("train", 2, 912.5)),
    ]
    assert count_worked_s(records) == 42.5


def test_numbers_of_whoever_wrote_them() -> None:
    assert as_number("inf") == float("inf")
    assert [as_number(value) for value in (True, "12", None, [1])] == [None] * 4
    assert find_number({"a": {"b": 3}}, "a", "b") == 3.0
    assert find_number({"a": [3]}, "a", "b") is None


def test_a_finished_run(workdir: WorkDir) -> None:
    assert workdir.train(*SMALL) == 0
    history = read_history(Path("run"))
    assert history.status == history.summary["status"] == "done"
    assert list(read_curve(history.records, "train", "loss").values()) == workdir.losses()
    assert count_worked_s(history.records) == pytest.approx(history.summary["wall_s"], abs=1.0)
    assert history.start["plan"]["total_steps"] == 6
    first, last = read_ends(Path("run"))
    assert (first, last[-1]["name"]) == (history.records[0], "done")


def test_the_end_of_a_long_journal_is_read_alone(tmp_path: Path) -> None:
    many = [START, *(record("train", step, loss=1.0) for step in range(1, 3000))]
    rewrite(tmp_path, many)
    assert (tmp_path / "journal.jsonl").stat().st_size > 2 * TAIL_BYTES
    first, last = read_ends(tmp_path)
    assert first == START
    assert last == many[-len(last) :]
    assert 0 < len(last) < 2000


def test_whether_it_runs_is_what_its_lock_says(tmp_path: Path) -> None:
    records = [START, record("train", 1)]
    assert find_status(tmp_path, records) == CUT_OFF
    in_use = claim(tmp_path)
    assert is_running(tmp_path, has_ended=False)
    assert find_status(tmp_path, records) == RUNNING
    os.close(in_use)
    assert find_status(tmp_path, records) == CUT_OFF
    assert find_status(tmp_path, [*records, record("event", 1, name="preempted")]) == "preempted"
    assert find_status(tmp_path, [*records, record("event", 1, name="done"), record("event", 1, name="resumed")]) == (
        CUT_OFF
    )


def test_a_lock_of_another_process_ends_with_it(tmp_path: Path) -> None:
    path = str(tmp_path)
    code = f"import time; from launcher.run.folder import *; claim(Path({path!r})); print('held', flush=True)"
    code += "; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_running(tmp_path, has_ended=False)
        holder.kill()
    assert not is_running(tmp_path, has_ended=False)


def test_looking_at_a_finished_run_never_takes_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(claim(tmp_path))
    monkeypatch.setattr("launcher.run.history.fcntl.flock", lambda *_: pytest.fail("asked for the lock"))
    assert not is_running(tmp_path, has_ended=True)
    (tmp_path / "elsewhere").mkdir()
    assert not is_running(tmp_path / "elsewhere", has_ended=False)


@pytest.mark.parametrize(
    "line", ["{", "[]", "1", '{"step": 1}', '{"step": "1", "epoch": 1, "kind": "train", "time_s": 1}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str) -> None:
    rewrite(tmp_path, [START])
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(RunError, match=r"journal.jsonl: damaged: line 2 is no record; leave this run out$"):
        read_history(tmp_path)


def test_a_torn_line_is_no_record_yet(tmp_path: Path) -> None:
    Journal(tmp_path).write("event", 0, 0, name="started")
    with (tmp_path / "journal.jsonl").open("a") as file:
        file.write('{"step": 1')
    assert len(read_history(tmp_path).records) == 1
    with pytest.raises(RunError, match=r"has no journal.jsonl with anything in it"):
        read_history(tmp_path / "nowhere")
