"""What W&B gets of a run, by the real SDK: offline files, and a server on loopback."""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from launcher.run.mirror import NullMirror
from tests.harness.runs import wait_until
from tests.run.wandb_file import OfflineRun, read_offline_runs
from tests.run.wandb_program import KEY, result_of, spawn
from tests.run.wandb_server import WandbServer

AXES = ("record", "step", "epoch")


def _steps(run: OfflineRun) -> list[int]:
    return [row["step"] for row in run.history if "train/loss" in row]


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_offline_has_everything(tmp_path: Path) -> None:
    body = """
from PIL import Image
(folder / "pictures").mkdir()
Image.new("RGB", (8, 8)).save(folder / "pictures" / "augmented.png")
log(1)
journal.write("event", 1, name="picture", picture="augmented")
journal.write("train", 2, loss=float("nan"), samples=[1, 2])
valid = {"loss": 0.5, "accuracy": 0.75, "top5_accuracy": 1.0, "num_images": 4}
per_class = {"cat": {"recall": 0.5, "support": 2}, "dog": {"recall": None, "support": 0}}
journal.write("eval", 2, split="valid", **valid, per_class=per_class)
journal.write("eval", 2, split="test", weights_step=1, **valid, per_class=per_class)
journal.write("event", 2, name="confusion", split="test", rows=[[1, 1], [0, 0]])
end(left=os.environ.get("WANDB_SERVICE"))
"""
    result = result_of(spawn(tmp_path / "run", "offline", body))
    del result["finish_s"]
    assert result == {"failures": [], "mode": "offline", "service": None, "left": None}
    (run,) = read_offline_runs(tmp_path / "run")
    expected = {"id": "abcd1234", "project": "birds", "group": "g", "job_type": "tune", "name": "run"}
    assert run.run == expected | {"tags": ["a", "b"]}
    assert (run.config["optim"], run.config["run"]) == ({"lr": 0.1}, {"seed": 3})
    by_step = ("train/*", "valid/*", "test/*", "checkpoint/*", "event/*")
    assert run.axes == dict.fromkeys(("record", "step", "epoch"), "") | dict.fromkeys(by_step, "step")
    assert [row["_step"] for row in run.history] == [row["record"] for row in run.history] == list(range(7))
    own = [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]
    metrics = {"loss": 0.5, "accuracy": 0.75, "top5_accuracy": 1.0, "num_images": 4}
    assert own[0] == {"event/name": "started", "event/wandb_id": "abcd1234", "record": 0, "step": 0, "epoch": 0}
    assert own[1] == {"train/loss": 1.0, "train/lr": 0.1, "record": 1, "step": 1, "epoch": 1}
    assert {key.split(".")[0] for key in own[2]} == {"augmented", "event/name", "event/picture", *AXES}
    assert math.isnan(own[3].pop("train/loss"))
    assert own[3] == {"record": 3, "step": 2, "epoch": 1}
    for i, split, more in ((4, "valid", {}), (5, "test", {"test/weights_step": 1})):
        named = {f"{split}/{key}": value for key, value in metrics.items()}
        assert own[i] == named | more | {"record": i, "step": 2, "epoch": 1}
    tables = {"test/per_class", "test/confusion_table"}
    assert {key.split(".")[0] for key in own[6]} == {*tables, "event/name", *AXES}
    assert {key: run.summary[f"test_{key}"] for key in metrics} == metrics
    files = next((tmp_path / "run" / "wandb").glob("offline-run-*")) / "files" / "media"
    (per_class,) = files.glob("table/test/per_class*.json")
    assert json.loads(per_class.read_text())["data"] == [["cat", 0.5, 2], ["dog", None, 0]]
    (confusion,) = files.glob("table/test/confusion*.json")
    cells = [["cat", "cat", 1], ["cat", "dog", 1], ["dog", "cat", 0], ["dog", "dog", 0]]
    assert json.loads(confusion.read_text())["data"] == cells
    assert len(list(files.glob("images/augmented*.png"))) == 1
    assert run.exit_code == 0


def test_a_killed_run_keeps_its_rows_and_the_next_part_continues_the_count(tmp_path: Path) -> None:
    body = "log(10, 20, 30); wait_for_mirror(); time.sleep(1.5); print(service(), flush=True); os.kill(os.getpid(), 9)"
    process = spawn(tmp_path / "run", "offline", body)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (-signal.SIGKILL, "")
    deadline = time.monotonic() + 10
    while _is_running(int(out)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(int(out)), "W&B's own process ends with ours"
    assert [_steps(run) for run in read_offline_runs(tmp_path / "run")] == [[10, 20, 30]]

    assert result_of(spawn(tmp_path / "run", "offline", "log(20, 30, 40); end()"))["failures"] == []
    first, second = read_offline_runs(tmp_path / "run")
    assert _steps(second) == [20, 30, 40]
    assert second.history[0]["_step"] > first.history[-1]["_step"], "or `wandb sync` would drop the second part"


def test_a_resumed_run_is_one_run_online(tmp_path: Path) -> None:
    with WandbServer() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        for steps in ("1, 2, 3, 4, 5", "3, 4, 5, 6"):
            result = result_of(spawn(tmp_path / "run", "online", f"log({steps}); wait_for_mirror(); end()", **online))
            assert (result["mode"], result["failures"], result["service"]) == ("online", [], None)
        (run,) = server.runs.values()
        assert (run.name, run.project, run.exit_code) == ("abcd1234", "birds", 0)
        assert run.config == {"optim": {"lr": 0.1}, "run": {"seed": 3}}
        assert [row["step"] for row in run.history] == [0, 1, 2, 3, 4, 5, 0, 3, 4, 5, 6]
        assert [row["record"] for row in run.history] == list(range(11))
        rows = [row["_step"] for row in run.history]
        assert rows == sorted(set(rows))
        assert run.stored["journal.jsonl"] == (tmp_path / "run/journal.jsonl").read_bytes()
        assert server.unknown == []


def test_the_journal_of_a_running_run_is_online_too(tmp_path: Path) -> None:
    body = """
launcher.run.wandb.KEEP_EVERY_S = 0.0
log(1)
journal.write("eval", 1, split="valid", loss=0.5)
wait_for_mirror()
time.sleep(600)
"""
    with WandbServer() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        process = spawn(tmp_path / "run", "online", body, **online)
        try:
            wait_until(lambda: any("journal.jsonl" in run.stored for run in server.runs.values()), process)
        finally:
            process.kill()
            process.communicate()
        (run,) = server.runs.values()
        assert run.stored["journal.jsonl"] == (tmp_path / "run/journal.jsonl").read_bytes()


def test_the_null_mirror_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads, environment = threading.active_count(), dict(os.environ)
    mirror = NullMirror()
    mirror.log(0, {"step": 1, "epoch": 1, "kind": "train", "time_s": 0.0, "loss": 1.0})
    assert (mirror.mode, mirror.take_failures(), mirror.finish(0)) == ("disabled", [], [])
    assert (threading.active_count(), dict(os.environ), list(tmp_path.iterdir())) == (threads, environment, [])
