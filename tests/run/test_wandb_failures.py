"""Whatever happens to W&B, the training continues, and reports it in one line."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.recipe.schema import Wandb
from launcher.run import mirror as mirror_module
from launcher.run import wandb as wandb_module
from launcher.run.journal import Record, read_journal
from launcher.run.mirror import WandbMirror
from launcher.run.wandb import Mode, RunMetadata
from tests.run.wandb_file import read_offline_runs
from tests.run.wandb_program import (
    DIES_LATER,
    FREE_S,
    IMPATIENT,
    KEY,
    PROGRAM,
    clean_environment,
    result_of,
    spawn,
)
from tests.run.wandb_server import WandbServer


def test_a_run_without_a_server_is_offline_and_can_be_sent_later(tmp_path: Path) -> None:
    with WandbServer() as server:
        closed = server.url
    result = result_of(
        spawn(
            tmp_path / "run",
            "online",
            "slow = log(*range(1, 201)); wait_for_mirror(); end(slow=slow)",
            IMPATIENT,
            WANDB_BASE_URL=closed,
            WANDB_API_KEY=KEY,
        )
    )
    assert result["slow"] < FREE_S
    assert result["mode"] == "offline"
    (failure,) = result["failures"]
    assert "\n" not in failure
    how = f"send it later: launcher sync {tmp_path / 'run'}"
    assert re.fullmatch(rf"W&B could not start online \(.+\): offline instead; {re.escape(how)}", failure) is not None
    (run,) = read_offline_runs(tmp_path / "run")
    assert [row["step"] for row in run.history] == list(range(201))


@pytest.mark.parametrize("fault", ["hang", 500])
def test_a_broken_server_costs_the_training_nothing(tmp_path: Path, fault: int | str) -> None:
    body = "end(slowest=max(log(step) for step in range(1, 201)))"
    with WandbServer(fault) as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        result = result_of(spawn(tmp_path / "run", "online", body, IMPATIENT, **online))
    assert result["slowest"] < FREE_S, "200 calls, while W&B is being imported on the same cores"
    assert result["finish_s"] < 90, "it gave up"
    assert result["mode"] == "offline"
    assert len(result["failures"]) == 1
    (run,) = read_offline_runs(tmp_path / "run")
    assert len(run.history) == 201


def test_a_server_that_dies_midway_does_not_delay_the_end(tmp_path: Path) -> None:
    body = """
log(1, 2); wait_for_mirror()
(folder / "started").touch()
while not (folder / "go").exists():
    time.sleep(0.05)
slow = log(3, 4); end(slow=slow)
"""
    with WandbServer() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        process = spawn(tmp_path / "run", "online", body, DIES_LATER, **online)
        while not (tmp_path / "run" / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
    (tmp_path / "run" / "go").touch()
    result = result_of(process)
    assert result["slow"] < FREE_S
    assert result["finish_s"] < 90, "it gave up"
    assert result["mode"] == "online"
    (failure,) = result["failures"]
    assert failure.startswith("W&B did not receive everything (")


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
def test_records_are_counted_that_are_lost_when_the_process_of_wandb_dies(tmp_path: Path, signal: str) -> None:
    """SLURM's SIGTERM reaches every process of a job step, and W&B's ends by it, as by the kernel's SIGKILL."""
    body = f"log(1); wait_for_mirror(); os.kill(service(), signal.{signal}); time.sleep(1); slow = log(*range(2, 40))"
    result = result_of(spawn(tmp_path / "run", "offline", f"{body}; end(slow=slow)", DIES_LATER))
    refused, unfinished, counted = result["failures"]
    assert refused.startswith("W&B refused a record (")
    assert unfinished.startswith("W&B did not receive everything (")
    assert counted == f"W&B refused 38 records; send it later: launcher sync {tmp_path / 'run'}"
    assert result["finish_s"] < 90, "it gave up"
    assert result["slow"] < FREE_S
    assert [record["step"] for record in read_journal(tmp_path / "run")] == list(range(40))


def test_no_question_is_asked_on_a_terminal_without_credentials(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM + "log(1); wait_for_mirror(); end()",
            str(tmp_path / "run"),
            "online",
            json.dumps(IMPATIENT),
        ],
        env=clean_environment(tmp_path, WANDB_SILENT="false", WANDB_BASE_URL="http://127.0.0.1:9"),
        stdin=child,
        stdout=child,
        stderr=child,
    )
    os.close(child)
    shown = b""
    while True:
        try:
            shown += os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
    os.close(parent)
    assert process.wait() == 0
    result = json.loads(shown)
    assert result["mode"] == "offline"
    assert len(result["failures"]) == 1


# In this process, with a stand-in for the W&B run.


class _Rows(SimpleNamespace):
    """A W&B run that records what it gets, and refuses negative steps."""

    def __init__(self) -> None:
        super().__init__(rows=[], finished=[])

    def add(self, number: int, record: Record) -> None:
        if record["step"] < 0:
            raise ValueError("first line\nsecond line")
        self.rows.append(record["step"])

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


def _mirror(monkeypatch: pytest.MonkeyPatch, folder: Path, init: Callable[[Mode], Any], mode: Mode) -> WandbMirror:
    monkeypatch.setattr(mirror_module, "WandbRun", lambda metadata, mode, local, timeout_s: init(mode))
    monkeypatch.setattr(mirror_module, "stop_service", lambda: None)
    for name in wandb_module.ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is put back
    return WandbMirror(RunMetadata("abcd1234", folder, Wandb(), {}), mode)


def _log(mirror: WandbMirror, *steps: int) -> None:
    for step in steps:
        mirror.log(0, {"step": step, "epoch": 1, "kind": "train", "time_s": 0.0, "loss": 1.0})


def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gate, run = threading.Event(), _Rows()
    monkeypatch.setattr(mirror_module, "MAX_QUEUED", 3)
    mirror = _mirror(monkeypatch, tmp_path, lambda mode: gate.wait(30) and run, "offline")
    _log(mirror, *range(10))
    threading.Timer(0.2, gate.set).start()  # while finish() waits for room
    how = f"send it later: launcher sync {tmp_path}"
    assert mirror.finish(1) == [f"W&B took too long, 7 records dropped; {how}"]
    assert (run.rows, run.finished) == ([0, 1, 2], [1])
    assert mirror.finish(1) == [], "reported once"


def test_a_wandb_that_never_starts_is_not_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gate = threading.Event()
    monkeypatch.setattr(mirror_module, "FINISH_TIMEOUT_S", 0.2)
    mirror = _mirror(monkeypatch, tmp_path, lambda mode: gate.wait(30) and _Rows(), "online")
    start = time.monotonic()
    (failure,) = mirror.finish(0)
    assert time.monotonic() - start < 20
    assert failure == f"W&B did not finish in 0 s; send it later: launcher sync {tmp_path}"
    assert mirror.mode == "disabled"
    gate.set()
    mirror._thread.join(10)
    assert mirror.mode == "disabled", "the summary has been written"


@pytest.mark.parametrize("error", [SystemExit(1), RuntimeError("no\nmore"), OSError(28, "No space left")])
def test_every_error_of_wandb_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    def init(mode: Mode) -> Any:
        raise error

    mirror = _mirror(monkeypatch, tmp_path, init, "online")
    _log(mirror, 1)
    online, offline = mirror.finish(0)
    assert online.startswith(f"W&B could not start online ({str(error).splitlines()[0]}): offline instead; ")
    assert offline == f"W&B could not start offline ({str(error).splitlines()[0]}): the journal has everything"
    assert mirror.mode == "disabled"


def test_refused_records_are_reported_once_and_the_rest_is_sent(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = _Rows()
    mirror = _mirror(monkeypatch, tmp_path, lambda mode: run, "offline")
    _log(mirror, 1, -1, 2, -1, -1, 3)
    while not mirror._queue.empty():
        time.sleep(0.01)
    failures = mirror.take_failures() + mirror.finish(0)
    assert failures == [
        "W&B refused a record (first line); it is in the journal",
        f"W&B refused 3 records; send it later: launcher sync {tmp_path}",
    ]
    assert run.rows == [1, 2, 3]
    assert mirror.take_failures() == []
