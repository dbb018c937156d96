"""Asked to stop, wherever they are, all processes stop together, and the same command goes on exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.runs import (
    DIGITS,
    Ended,
    Record,
    environment,
    events,
    finish,
    journal,
    start,
    summary,
    train,
    train_records,
    wait_until,
)

Words = list[str | Path]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few digits to train on and many to evaluate, one by one: most of the time a run is evaluating."""
    folder = tmp_path_factory.mktemp("much_to_judge")
    split = "data.split={train: 0.1, valid: 0.6, test: rest}"
    train(DIGITS, split, f"data.dir={folder}/shards", "train.epochs=1st", "log.wandb.mode=disabled", cwd=folder)
    return folder / "shards"


def settings(shards: Path) -> Words:
    return [
        DIGITS,
        "data.split={train: 0.1, valid: 0.6, test: rest}",
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
    process = start(words, cwd, processes=2, launcher=launcher)
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


@pytest.mark.parametrize(
    ("launcher", "tell"),
    [("torchrun", terminate), ("accelerate", terminate), ("torchrun", warn_last_rank)],
    ids=["SIGTERM-to-torchrun", "SIGTERM-to-accelerate", "SIGUSR1-to-one-rank"],
)
def test_in_the_middle_of_a_validation(
    tmp_path: Path, shards: Path, whole: Path, launcher: str, tell: Callable[[subprocess.Popen[str]], None]
) -> None:
    folder = tmp_path / "run"
    stop_when(lambda: 7 in train_records(folder), settings(shards), tmp_path, tell, launcher)
    assert summary(folder)["status"] == "preempted"
    state = newest_state(folder)
    assert (state["step"], state["is_judged"]) == (7, False)
    assert not evaluations(folder)
    train(*settings(shards), cwd=tmp_path, processes=2)
    assert_same(folder, whole)


def test_in_the_middle_of_the_last_evaluation(tmp_path: Path, shards: Path, whole: Path) -> None:
    folder = tmp_path / "run"
    last = summary(whole)["steps_done"]
    stop_when(lambda: ("valid", last) in evaluations(folder), settings(shards), tmp_path, terminate, "torchrun")
    assert (summary(folder)["status"], newest_state(folder)["is_judged"]) == ("preempted", True)
    assert ("test", last) not in evaluations(folder)
    train(*settings(shards), cwd=tmp_path, processes=2)
    assert_same(folder, whole)


@pytest.mark.parametrize("tell", [terminate, warn_last_rank], ids=["SIGTERM-to-torchrun", "SIGUSR1-to-one-rank"])
def test_while_one_process_packs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[subprocess.Popen[str]], None]
) -> None:
    words: Words = [DIGITS, "data.source=synthetic:20x2000x96", "data.split=null", "data.dir=shards", "run.dir=run"]
    monkeypatch.setenv("LAUNCHER_EXIT_CODE", str(tmp_path / "code"))
    ended = stop_when(lambda: any(tmp_path.glob("shards.partial/*.tar")), words, tmp_path, tell, "torchrun")
    assert ended.code == 1, "as torchrun makes of everything"
    assert (tmp_path / "code").read_text() == "75\n"
    assert "launcher: stopped while packing; the same command packs again" in ended.err
    assert not (tmp_path / "shards").exists()
    assert not (tmp_path / "run").exists()


def test_torchrun_dies_of_a_warning_and_its_processes_still_stop_well(tmp_path: Path, digits: Path) -> None:
    folder = tmp_path / "run"
    words: Words = [DIGITS, f"data.dir={digits}", "run.dir=run", "log.wandb.mode=disabled"]
    process = start(words, tmp_path, processes=2)
    wait_until(lambda: 20 in train_records(folder), process)
    process.send_signal(signal.SIGUSR1)
    ended = finish(process)  # its output is closed when the last of its processes has ended
    assert ended.code == -signal.SIGUSR1
    assert summary(folder)["status"] == "preempted"


def test_exit_code_is_left_in_a_file(tmp_path: Path) -> None:
    code = tmp_path / "code"
    words = [str(DIGITS), "optim.lr=-1"]
    settings = {**environment(), "LAUNCHER_EXIT_CODE": str(code)}
    subprocess.run(["python", "-m", "launcher", *words], cwd=tmp_path, env=settings, capture_output=True)
    assert code.read_text() == "2\n"
    assert not events(tmp_path, "started")
