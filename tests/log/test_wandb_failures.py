"""Whatever happens to W&B, the training goes on, and says so in one line."""

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

from launcher.log import wandb as mirror_module
from launcher.log.wandb import Mode, WandbMirror
from launcher.recipe.schema import Wandb
from tests.log.wandb_file import read_offline_runs
from tests.log.wandb_program import KEY, PROGRAM, clean_environment, result_of, spawn
from tests.log.wandb_server import WandbServer


def test_without_a_server_it_is_offline_and_can_be_sent_later(tmp_path: Path) -> None:
    with WandbServer() as server:
        closed = server.url
    result = result_of(
        spawn(
            tmp_path / "run",
            "online",
            "slow = log(*range(1, 201)); settle(); end(slow=slow)",
            WANDB_BASE_URL=closed,
            WANDB_API_KEY=KEY,
        )
    )
    assert result["slow"] < 0.1
    assert result["mode"] == "offline"
    (failure,) = result["failures"]
    assert "\n" not in failure
    found = re.fullmatch(r"W&B could not start online \(.+\): offline instead, send it later: (wandb sync .+)", failure)
    assert found is not None
    (run,) = read_offline_runs(tmp_path / "run")
    assert [row["step"] for row in run.history] == list(range(1, 201))

    with WandbServer() as server:
        environment = clean_environment(tmp_path, WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        subprocess.run(found[1], shell=True, check=True, env=environment, capture_output=True, timeout=60)
        (sent,) = server.runs.values()
        assert [row["step"] for row in sent.history] == list(range(1, 201))


@pytest.mark.parametrize("fault", ["hang", 500])
def test_a_server_out_of_order_costs_the_training_nothing(tmp_path: Path, fault: int | str) -> None:
    body = "times = sorted(log(step) for step in range(1, 201)); end(median=times[100], slowest=times[-1])"
    with WandbServer(fault) as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        result = result_of(spawn(tmp_path / "run", "online", body, **online))
    assert result["median"] < 0.005
    assert result["slowest"] < 0.5, "200 calls, while W&B is being imported on the same two cores"
    assert result["finish_s"] < 8.5
    assert result["mode"] == "offline"
    assert len(result["failures"]) == 1
    (run,) = read_offline_runs(tmp_path / "run")
    assert len(run.history) == 200


def test_a_server_that_dies_midway_cannot_hold_the_end(tmp_path: Path) -> None:
    body = """
log(1, 2); settle()
(folder / "started").touch()
while not (folder / "go").exists():
    time.sleep(0.05)
slow = log(3, 4); end(slow=slow)
"""
    with WandbServer() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        process = spawn(tmp_path / "run", "online", body, **online)
        while not (tmp_path / "run" / "started").exists():
            assert process.poll() is None
            time.sleep(0.05)
    (tmp_path / "run" / "go").touch()
    result = result_of(process)
    assert result["slow"] < 0.1
    assert result["finish_s"] < 8.5
    assert result["mode"] == "online"
    (failure,) = result["failures"]
    assert failure.startswith("W&B did not take everything (")


def test_when_w_and_b_s_own_process_dies_the_loss_is_counted(tmp_path: Path) -> None:
    """SLURM's SIGTERM reaches every process of a job step, and this one obeys."""
    body = "log(1); settle(); os.kill(service(), signal.SIGTERM); time.sleep(1); log(*range(2, 40)); end()"
    result = result_of(spawn(tmp_path / "run", "offline", body))
    refused, unfinished, counted = result["failures"]
    assert refused.startswith("W&B refused a record (")
    assert unfinished.startswith("W&B did not take everything (")
    assert counted == "W&B refused 38 records; the journal has them"
    assert result["finish_s"] < 8


def test_nobody_is_asked_on_a_terminal_without_credentials(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    parent, child = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM + "log(1); settle(); end()", str(tmp_path / "run"), "online"],
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
        except OSError:  # how Linux says that the other end is closed
            break
    os.close(parent)
    assert process.wait() == 0
    result = json.loads(shown)
    assert result["mode"] == "offline"
    assert len(result["failures"]) == 1


# In this process, with a stand-in for wandb.init.


class _Rows(SimpleNamespace):
    """A W&B run that notes what it is given, and refuses negative steps."""

    def __init__(self) -> None:
        super().__init__(rows=[], finished=[])

    def log(self, row: dict[str, Any], step: int, commit: bool) -> None:
        if row["step"] < 0:
            raise ValueError("first line\nsecond line")
        self.rows.append(row["step"])

    def finish(self, exit_code: int) -> None:
        self.finished.append(exit_code)


def _mirror(monkeypatch: pytest.MonkeyPatch, folder: Path, init: Callable[[Mode], Any], mode: Mode) -> WandbMirror:
    monkeypatch.setattr(WandbMirror, "_init", lambda self, mode: init(mode))
    monkeypatch.setattr(WandbMirror, "_stop_service", lambda self: None)
    for name in mirror_module.ENVIRONMENT:
        monkeypatch.setenv(name, "")  # so that it is put back
    return WandbMirror(Wandb(), mode, folder, "abcd1234", "first", {})


def test_a_full_queue_drops_and_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gate, run = threading.Event(), _Rows()
    monkeypatch.setattr(mirror_module, "MAX_QUEUED", 3)
    mirror = _mirror(monkeypatch, tmp_path, lambda mode: gate.wait(30) and run, "offline")
    for step in range(10):
        mirror.log(step, 1, "train", {"loss": 1.0})
    threading.Timer(0.2, gate.set).start()  # while finish() waits for room
    assert mirror.finish(1) == ["7 rows were dropped: W&B took too long; the journal has them"]
    assert (run.rows, run.finished) == ([0, 1, 2], [1])
    assert mirror.finish(1) == [], "said once"


def test_a_w_and_b_that_never_starts_is_not_called_online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    gate = threading.Event()
    monkeypatch.setattr(mirror_module, "FINISH_TIMEOUT_S", 0.2)
    mirror = _mirror(monkeypatch, tmp_path, lambda mode: gate.wait(30) and _Rows(), "online")
    start = time.monotonic()
    (failure,) = mirror.finish(0)
    assert time.monotonic() - start < 2
    assert failure.startswith("W&B did not end in 0 s; send it later: wandb sync ")
    assert mirror.mode == "disabled"
    gate.set()
    mirror._thread.join(10)
    assert mirror.mode == "disabled", "the summary has been written"


@pytest.mark.parametrize("error", [SystemExit(1), RuntimeError("no\nmore"), OSError(28, "No space left")])
def test_whatever_w_and_b_raises_it_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException
) -> None:
    def init(mode: Mode) -> Any:
        raise error

    mirror = _mirror(monkeypatch, tmp_path, init, "online")
    mirror.log(1, 1, "train", {"loss": 1.0})
    online, offline = mirror.finish(0)
    assert online.startswith(f"W&B could not start online ({str(error).splitlines()[0]}): offline instead, ")
    assert offline == f"W&B could not start offline ({str(error).splitlines()[0]}): the journal has everything"
    assert mirror.mode == "disabled"


def test_a_refused_record_is_told_once_and_the_rest_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = _Rows()
    mirror = _mirror(monkeypatch, tmp_path, lambda mode: run, "offline")
    for step in (1, -1, 2, -1, -1, 3):
        mirror.log(step, 1, "train", {"loss": 1.0})
    while not mirror._queue.empty():
        time.sleep(0.01)
    failures = mirror.take_failures() + mirror.finish(0)
    assert failures == [
        "W&B refused a record (first line); it is in the journal",
        "W&B refused 3 records; the journal has them",
    ]
    assert run.rows == [1, 2, 3]
    assert mirror.take_failures() == []
