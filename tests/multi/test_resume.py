"""Killed or asked to stop, the same command resumes as if nothing had happened."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.harness.runs import (
    DIGITS,
    events,
    finish,
    launch,
    run,
    start,
    stop_after,
    summary,
    train,
    train_records,
    wait_until,
)

TOTAL_STEPS = 66


def settings(digits: Path) -> list[str]:
    return [f"data.dir={digits}", "log.samples=true", "train.epochs=2", "checkpoint.every=7st", "run.dir=run"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A run that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("whole")
    train(DIGITS, *settings(digits), cwd=cwd)
    return cwd / "run"


def weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / "last" / "model.safetensors").read_bytes()


def assert_same_training(found: Path, expected: Path) -> None:
    records = train_records(found)
    assert sorted(records) == list(range(1, TOTAL_STEPS + 1))
    for step, record in train_records(expected).items():
        assert records[step]["samples"] == record["samples"]
        assert records[step]["loss"] == record["loss"]


def test_a_run_killed_at_random_steps_resumes_exactly(tmp_path: Path, digits: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    kills: list[int] = []
    for middle in (TOTAL_STEPS // 2, TOTAL_STEPS - 5):
        done = max(train_records(folder)) if kills else 2  # more than where it was killed: what comes next is its own
        step = random.randint(done + 1, max(done + 1, middle))
        kills.append(step)
        ended = stop_after(start([DIGITS, *settings(digits)], tmp_path), folder, step, signal.SIGKILL)
        assert ended.code == -signal.SIGKILL, f"kills at {kills}"
    train(DIGITS, *settings(digits), cwd=tmp_path)
    assert_same_training(folder, whole)
    assert weights(folder) == weights(whole)
    resumed = events(folder, "resumed")
    assert len(resumed) == 2
    assert {record["wandb_id"] for record in resumed} == {summary(folder)["wandb"]["id"]}
    assert summary(folder)["test"] == summary(whole)["test"]


def test_a_run_asked_to_stop_resumes_exactly(tmp_path: Path, digits: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    ended = stop_after(start([DIGITS, *settings(digits)], tmp_path), folder, 20, signal.SIGTERM)
    assert ended.code == 75, ended.err
    assert summary(folder)["status"] == "preempted"
    stopped_at = summary(folder)["steps_done"]
    assert 20 <= stopped_at < TOTAL_STEPS
    assert [record["picture"] for record in events(folder, "picture")] == ["augmented"]
    train(DIGITS, *settings(digits), cwd=tmp_path)
    pictures = [record["picture"] for record in events(folder, "picture")]
    assert pictures == ["augmented", "curves", "per_class", "confusion"]
    assert [record["step"] for record in events(folder, "resumed")] == [stopped_at]
    assert_same_training(folder, whole)
    assert weights(folder) == weights(whole)


def test_accelerate_launch_of_one_process_passes_the_wish_on(tmp_path: Path, digits: Path) -> None:
    """It ends at once and by itself leaves its process running."""
    folder = tmp_path / "run"
    process = launch([DIGITS, *settings(digits), "train.epochs=30"], tmp_path, launcher="accelerate")
    stop_after(process, folder, 10, signal.SIGTERM)
    end = time.monotonic() + 30
    while not (folder / "summary.json").exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert summary(folder)["status"] == "preempted"


def test_a_run_whose_output_nobody_reads_is_done(tmp_path: Path, digits: Path) -> None:
    """As after `| head`."""
    process = launch([DIGITS, *settings(digits)], tmp_path)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    assert finish(process).code == 0
    assert summary(tmp_path / "run")["status"] == "done"


def test_two_processes_continue_what_one_began(tmp_path: Path, digits: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    stop_after(start([DIGITS, *settings(digits)], tmp_path), folder, 30, signal.SIGTERM)
    train(DIGITS, *settings(digits), cwd=tmp_path, processes=2)
    records = train_records(folder)
    for step, record in train_records(whole).items():
        assert records[step]["samples"] == record["samples"]
        assert records[step]["loss"] == pytest.approx(record["loss"], rel=1e-3)


def test_two_processes_stop_together(tmp_path: Path, digits: Path) -> None:
    folder = tmp_path / "run"
    stop_after(start([DIGITS, *settings(digits)], tmp_path, processes=2), folder, 10, signal.SIGTERM)
    assert summary(folder)["status"] == "preempted"
    train(DIGITS, *settings(digits), cwd=tmp_path, processes=2)
    assert summary(folder)["status"] == "done"
    assert sorted(train_records(folder)) == list(range(1, TOTAL_STEPS + 1))


def test_a_finished_run_is_left_alone_and_fresh_starts_anew(tmp_path: Path, digits: Path) -> None:
    short = [f"data.dir={digits}", "train.epochs=4st", "run.dir=run", "log.wandb.mode=disabled"]
    train(DIGITS, *short, cwd=tmp_path)
    before = (tmp_path / "run" / "journal.jsonl").read_bytes()
    again = train(DIGITS, *short, cwd=tmp_path)
    assert "this run is finished; --fresh starts anew" in again.out
    assert (tmp_path / "run" / "journal.jsonl").read_bytes() == before
    train(DIGITS, *short, "--fresh", cwd=tmp_path)
    kept = [path for path in tmp_path.glob("run.before-*") if (path / "journal.jsonl").read_bytes() == before]
    assert len(kept) == 1
    assert len(events(tmp_path / "run", "started")) == 1


def test_a_changed_recipe_is_refused_then_allowed(tmp_path: Path, digits: Path) -> None:
    short: list[str | Path] = [DIGITS, f"data.dir={digits}", "run.dir=run", "log.wandb.mode=disabled"]
    train(*short, "train.epochs=4st", cwd=tmp_path)
    refused = run(*short, "train.epochs=8st", "optim.lr=0.01", cwd=tmp_path)
    assert refused.code == 2
    assert refused.err == (
        "launcher: run: its recipe has changed: optim.lr 0.002 -> 0.01, train.epochs '4st' -> '8st'; "
        "add --allow-change optim.lr --allow-change train.epochs to resume, or --fresh to start anew\n"
    )
    changes = ["--allow-change", "optim.lr", "--allow-change", "train.epochs"]
    train(*short, "train.epochs=8st", "optim.lr=0.01", *changes, cwd=tmp_path)
    assert summary(tmp_path / "run")["steps_done"] == 8
    assert events(tmp_path / "run", "resumed")[0]["changes"] == {
        "optim.lr": [0.002, 0.01],
        "train.epochs": ["4st", "8st"],
    }


def test_two_runs_cannot_share_a_folder(tmp_path: Path, digits: Path) -> None:
    words: list[str | Path] = [DIGITS, *settings(digits), "train.epochs=30"]
    first = start(words, tmp_path)
    try:
        wait_until(lambda: bool(train_records(tmp_path / "run")), first)
        second = run(*words, cwd=tmp_path)
        assert second.code == 2
        assert second.err == "launcher: run: another process is running it; wait for it, or choose another run.dir\n"
    finally:
        first.kill()
        finish(first)
