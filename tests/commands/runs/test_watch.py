"""`launcher watch`: what it shows of a running run, and that it ends with it."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import run as command
from launcher.commands.runs.watch import RunState, show_event, watch
from launcher.run.history import find_status
from launcher.run.journal import Journal, Record
from launcher.run.lock_file import claim, is_running
from tests.commands.runs.run_folders import SMALL, records, train
from tests.harness.runs import environment, finish, start
from tests.harness.workdir import WorkDir

PLAN = {"total_steps": 100, "steps_per_epoch": 10}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    journal = Journal(tmp_path, 10)
    journal.write("event", 0, name="started", plan=PLAN)
    return journal


def write_train(journal: Journal, step: int, loss: float = 0.5) -> None:
    journal.write("train", step, loss=loss, lr=0.1, images_per_s=1234.0, data_wait_frac=0.0)


def write_eval(journal: Journal, step: int) -> None:
    metrics = {"loss": 0.25, "accuracy": 0.875, "top5_accuracy": 1.0, "num_images": 8}
    journal.write("eval", step, split="valid", weights_step=step, **metrics)


def live(folder: Path, work: Callable[[], None]) -> threading.Thread:
    """A run: holds its lock while `work` writes the journal."""
    in_use = claim(folder)

    def go() -> None:
        try:
            time.sleep(0.2)
            work()
        finally:
            os.close(in_use)

    thread = threading.Thread(target=go)
    thread.start()
    return thread


def test_an_event_is_shown_by_its_message() -> None:
    record = {"kind": "event", "step": 1, "epoch": 1, "time_s": 0.0}
    assert show_event({**record, "name": "note", "message": "mind the gap"}) == "note: mind the gap"
    assert show_event({**record, "name": "input", "sentence": "not input-bound"}) == "input: not input-bound"
    skipped = "skipped 3 unreadable images of train"
    assert show_event({**record, "name": "skipped_samples", "message": skipped}) == skipped
    assert show_event({**record, "name": "resumed"}) == "resumed"
    assert show_event({**record, "name": "confusion", "rows": [[1]]}) is None


def test_time_left_follows_from_the_speed_of_the_records() -> None:
    state = RunState()
    state.add({"kind": "event", "step": 0, "epoch": 0, "time_s": 0.0, "name": "started", "plan": PLAN})
    assert state.left_s is None
    for step in (10, 20, 30):
        state.add({"kind": "train", "step": step, "epoch": 1, "time_s": 2.0 * step, "loss": 1.0})
    assert state.left_s == 2.0 * 70
    state.add({"kind": "event", "step": 20, "epoch": 0, "time_s": 900.0, "name": "resumed", "plan": PLAN})
    assert state.left_s is None


def test_watch_ends_with_the_run(tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        write_train(journal, 10)
        write_eval(journal, 10)
        journal.write("event", 10, name="note", message="mind the gap")
        time.sleep(0.2)
        journal.write("event", 100, name="done")

    thread = live(tmp_path, work)
    assert watch(tmp_path, once=False, every_s=0.02) == 0
    thread.join()
    assert capsys.readouterr().out.splitlines()[-4:] == [
        "epoch 1  step 10/100  loss 0.5000  lr 1.00e-01  1,234 images/s",
        "epoch 1  step 10/100  valid  loss 0.2500  accuracy 87.50%  top-5 accuracy 100.00%  weights of step 10",
        "epoch 1  step 10/100  note: mind the gap",
        f"{tmp_path}: done",
    ]


def test_a_run_without_an_ending_was_cut_off(
    tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    thread = live(tmp_path, lambda: write_train(journal, 20))
    assert watch(tmp_path, once=False, every_s=0.02) == 0
    thread.join()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2].startswith("epoch 2  step 20/100  loss 0.5000")
    assert lines[-1] == f"{tmp_path}: cut off"


def test_a_run_that_is_being_resumed_is_followed(
    tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    """It holds the lock before it writes that it resumes; until then its journal ends with the earlier ending."""
    write_train(journal, 10)
    journal.write("event", 10, name="preempted")

    def work() -> None:
        journal.write("event", 10, name="resumed", plan=PLAN)
        time.sleep(0.2)
        write_train(journal, 20)
        journal.write("event", 100, name="done")

    thread = live(tmp_path, work)
    assert watch(tmp_path, once=False, every_s=0.02) == 0
    thread.join()
    out = capsys.readouterr().out
    assert "running" in out
    assert "epoch 2  step 20/100  loss 0.5000" in out
    assert out.endswith(f"{tmp_path}: done\n")


@pytest.mark.parametrize("ending", ["done", "preempted"])
def test_a_run_that_holds_its_lock_after_its_last_record_ends(
    tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    """It sends its last files, or ends before it has written that it resumes."""
    journal.write("event", 100, name=ending)
    thread = live(tmp_path, lambda: None)
    assert watch(tmp_path, once=False, every_s=0.02) == 0
    assert not is_running(tmp_path, has_ended=True)
    thread.join()
    assert capsys.readouterr().out.endswith(f"{tmp_path}: {ending}\n")


def test_a_run_that_ends_as_its_journal_has_been_read(
    tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = [claim(tmp_path)]

    def end_before(folder: Path, seen: list[Record]) -> str:
        if in_use:
            journal.write("event", 100, name="done")
            os.close(in_use.pop())
        return find_status(folder, seen)

    monkeypatch.setattr("launcher.commands.runs.watch.find_status", end_before)
    assert watch(tmp_path, once=False, every_s=0.02) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path}: done\n")


def test_once_shows_the_state_of_the_run(tmp_path: Path, journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    write_train(journal, 40)
    write_eval(journal, 40)
    in_use = claim(tmp_path)
    assert command(["watch", str(tmp_path), "--once"]) == 0
    os.close(in_use)
    out = capsys.readouterr().out
    for words in ("running", "40/100", "loss 0.5000  lr 1.00e-01  1,234 images/s", "accuracy 87.50%", "started"):
        assert words in out


def test_watch_of_a_finished_run_shows_its_end(workdir: WorkDir, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(workdir, "one")
    last = [record for record in records(run) if record["kind"] == "train"][-1]
    capsys.readouterr()
    assert command(["watch", "runs/one"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("runs/one: done\n")
    assert f"loss {last['loss']:.4f}" in out
    assert "6/6" in out


def test_a_training_of_two_ranks_is_followed(workdir: WorkDir, capsys: pytest.CaptureFixture[str]) -> None:
    """Watched from before it has a journal; compare shows that it had two ranks."""
    process = start(["small.yaml", *SMALL, "train.epochs=20"], workdir.path, processes=2)
    run = workdir.path / "run"
    while not (run / ".in-use").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert watch(run, once=False, every_s=0.05) == 0
    assert finish(process, 60).code == 0
    out = capsys.readouterr().out
    assert out.endswith(f"{run}: done\n")
    wanted = [record for record in records(run) if record["kind"] == "train"]
    assert f"step {wanted[-1]['step']}/60  loss {wanted[-1]['loss']:.4f}" in out
    assert out.count("images/s") >= len(wanted) - 1
    train(workdir, "alone", "train.epochs=20")
    capsys.readouterr()
    assert command(["compare", "run", "runs/alone"]) == 0
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    assert ["world size", "2", "1"] in cells
    assert [row for row in cells if row and row[0].startswith("train.")] == []


def test_a_terminal_shows_a_table_that_is_drawn_again(tmp_path: Path, journal: Journal) -> None:
    write_train(journal, 10)
    shown = threading.Event()

    def work() -> None:
        assert shown.wait(60)
        write_train(journal, 30, loss=0.125)
        time.sleep(1.5)
        journal.write("event", 100, name="early_stopped")

    leader, follower = pty.openpty()
    arguments = [sys.executable, "-m", "launcher", "watch", str(tmp_path)]
    thread = live(tmp_path, work)
    terminal: dict[str, Any] = {"env": {**environment(), "TERM": "xterm", "COLUMNS": "100"}, "stdout": follower}
    with subprocess.Popen(arguments, **terminal) as process:
        os.close(follower)
        out = read_all(leader, shown)
    thread.join()
    assert process.returncode == 0
    assert "loss 0.1250" in out
    assert "━" in out
    assert "\x1b[1A" in out
    assert out.rstrip().endswith(": early_stopped")


def read_all(terminal: int, shown: threading.Event) -> str:
    found = b""
    try:
        while block := os.read(terminal, 65536):
            found += block
            shown.set()
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    return found.decode()


def test_folders_that_are_no_run_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/journal.jsonl").write_text("{\n")
    for name, words in (
        ("nowhere", "no such folder"),
        (".", "not a run folder"),
        ("damaged", "line 1 is not a record"),
    ):
        assert command(["watch", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert len(error.splitlines()) == 1
