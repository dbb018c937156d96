"""Asked to stop, wherever they are, all processes stop together, and the same command resumes exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.recipe.parse import load_recipe
from launcher.recipe.resolve import pack_options
from shards.write import pack
from tests.harness.runs import (
    DIGITS,
    Ended,
    Record,
    finish,
    journal,
    launch,
    summary,
    train,
    train_records,
    wait_until,
)

Words = list[str | Path]


SPLIT = "data.split={train: 0.1, valid: 0.6, test: rest}"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few digits to train on and many to evaluate, one by one: most of the time a run is evaluating."""
    folder = tmp_path_factory.mktemp("much_to_evaluate") / "shards"
    pack("digits", folder, pack_options(load_recipe(DIGITS, [SPLIT]).recipe.data))
    return folder


def settings(shards: Path) -> Words:
    return [
        DIGITS,
        SPLIT,
        f"data.dir={shards}",
        *("run.dir=run", "log.wandb.mode=disabled", "log.every=1st"),
        *("train.epochs=4", "train.eval_batch=1", "train.evaluate_every=7st", "checkpoint.every=null"),
    ]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A run of two processes that nobody disturbed."""
    cwd = tmp_path_factory.mktemp("whole")
    train(*settings(shards), cwd=cwd, processes=2)
    return cwd / "run"


def stop_when(
    is_so: Callable[[], bool], words: Words, cwd: Path, tell: Callable[[subprocess.Popen[str]], None], launcher: str
) -> Ended:
    """Two processes, told to stop once it is so."""
    process = launch(words, cwd, processes=2, launcher=launcher)
    wait_until(is_so, process)
    tell(process)
    return finish(process)


def terminate(process: subprocess.Popen[str]) -> None:
    process.terminate()


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    """Process ids in the order of ranks."""
    return [int(word) for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


def warn_last_rank(process: subprocess.Popen[str]) -> None:
    os.kill(ranks_of(process)[-1], signal.SIGUSR1)


def newest_state(folder: Path) -> Record:
    state: Record = json.loads((folder / "checkpoints" / "last" / "state.json").read_text())
    return state


def evaluations(folder: Path) -> dict[tuple[str, int], Record]:
    return {
        (record["split"], record["step"]): {name: value for name, value in record.items() if name != "time_s"}
        for record in journal(folder)
        if record["kind"] == "eval"
    }


def assert_same(found: Path, expected: Path) -> None:
    """Losses, figures, best and weights, to the last bit."""
    for name in ("last", "best"):
        weights = [(folder / "checkpoints" / name / "model.safetensors").read_bytes() for folder in (found, expected)]
        assert weights[0] == weights[1], name
        assert (found / "checkpoints" / name).readlink() == (expected / "checkpoints" / name).readlink()
    assert evaluations(found) == evaluations(expected)
    losses = [{step: record["loss"] for step, record in train_records(folder).items()} for folder in (found, expected)]
    assert losses[0] == losses[1]
    for key in ("status", "valid", "valid_last", "best", "test", "steps_done"):
        assert summary(found)[key] == summary(expected)[key], key


def test_a_run_stopped_in_the_middle_of_evaluations_resumes_exactly(tmp_path: Path, shards: Path, whole: Path) -> None:
    """Of the first validation, of the second, of the test at the end; each time by another way of being asked."""
    folder, words, last = tmp_path / "run", settings(shards), summary(whole)["steps_done"]
    stop_when(lambda: 7 in train_records(folder), words, tmp_path, terminate, "torchrun")
    assert summary(folder)["status"] == "preempted"
    assert (newest_state(folder)["step"], newest_state(folder)["validated_step"]) == (7, 0)
    assert not evaluations(folder)
    stop_when(lambda: 14 in train_records(folder), words, tmp_path, warn_last_rank, "torchrun")
    assert (newest_state(folder)["step"], newest_state(folder)["validated_step"]) == (14, 7)
    assert list(evaluations(folder)) == [("valid", 7)]
    stop_when(lambda: ("valid", last) in evaluations(folder), words, tmp_path, terminate, "accelerate")
    assert summary(folder)["status"] == "preempted"
    assert (newest_state(folder)["step"], newest_state(folder)["validated_step"]) == (last, last)
    assert ("test", last) not in evaluations(folder)
    train(*words, cwd=tmp_path, processes=2)
    assert_same(folder, whole)


def test_packing_stops_when_a_process_that_waits_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words: Words = [DIGITS, "data.source=synthetic:20x2000x96", "data.split=null", "data.dir=shards", "run.dir=run"]
    monkeypatch.setenv("LAUNCHER_EXIT_CODE", str(tmp_path / "code"))
    ended = stop_when(lambda: any(tmp_path.glob("shards.partial/*.tar")), words, tmp_path, warn_last_rank, "torchrun")
    assert ended.code == 1, "as torchrun makes of everything"
    assert (tmp_path / "code").read_text() == "75\n"
    assert "launcher: stopped while packing; the same command packs again" in ended.err
    assert not (tmp_path / "shards").exists()
    assert not (tmp_path / "run").exists()


def test_torchrun_dies_of_a_warning_and_its_processes_still_stop_well(tmp_path: Path, digits: Path) -> None:
    folder = tmp_path / "run"
    words: Words = [DIGITS, f"data.dir={digits}", "run.dir=run", "log.wandb.mode=disabled"]
    process = launch(words, tmp_path, processes=2)
    wait_until(lambda: 20 in train_records(folder), process)
    process.send_signal(signal.SIGUSR1)
    ended = finish(process)  # its output is closed when the last of its processes has ended
    assert ended.code == -signal.SIGUSR1
    assert summary(folder)["status"] == "preempted"
