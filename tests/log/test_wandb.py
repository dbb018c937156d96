"""What W&B has of a run, by the real SDK: offline files, and a server on loopback."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from launcher.log import wandb as mirror_module
from launcher.log.wandb import MAX_CELLS, NoWandb
from tests.log.wandb_file import OfflineRun, read_offline_runs
from tests.log.wandb_program import KEY, result_of, spawn
from tests.log.wandb_server import WandbServer


def _steps(run: OfflineRun) -> list[int]:
    return [row["step"] for row in run.history]


def _is_running(pid: int) -> bool:
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_offline_has_everything(tmp_path: Path) -> None:
    body = """
from PIL import Image
Image.new("RGB", (8, 8)).save(folder / "grid.png")
log(1, 2)
valid = {"loss": 0.5, "top1_frac": 0.75, "top5_frac": 1.0, "num_images": 4}
mirror.log(2, 1, "valid", valid)
mirror.log(2, 1, "test", {**valid, "name": "no figure"})
per_class = {"cat": {"top1_frac": 0.5, "num_images": 2}, "dog": {"top1_frac": None, "num_images": 0}}
mirror.log_evaluation(2, "test", {**valid, "per_class": per_class}, ("cat", "dog"), [[1, 1], [0, 0]])
mirror.log_picture(2, "augmented", folder / "grid.png")
end(left=os.environ.get("WANDB_SERVICE"))
"""
    result = result_of(spawn(tmp_path / "run", "offline", body))
    assert result.pop("finish_s") < 8
    assert result == {"failures": [], "mode": "offline", "service": None, "left": None}
    (run,) = read_offline_runs(tmp_path / "run")
    expected = {"id": "abcd1234", "project": "birds", "group": "g", "job_type": "tune", "name": "first"}
    assert run.run == expected | {"tags": ["a", "b"]}
    assert (run.config["optim"], run.config["run"]) == ({"lr": 0.1}, {"seed": 3})
    assert run.axes == {"step": "", "epoch": ""} | dict.fromkeys(("train/*", "valid/*", "test/*"), "step")
    own = [{key: value for key, value in row.items() if not key.startswith("_")} for row in run.history]
    figures = {"loss": 0.5, "top1_frac": 0.75, "top5_frac": 1.0, "num_images": 4}
    assert own[:4] == [
        {"train/loss": 1.0, "train/lr": 0.1, "step": 1, "epoch": 1},
        {"train/loss": 0.5, "train/lr": 0.1, "step": 2, "epoch": 1},
        {f"valid/{key}": value for key, value in figures.items()} | {"step": 2, "epoch": 1},
        {f"test/{key}": value for key, value in figures.items()} | {"step": 2, "epoch": 1},
    ]
    assert {key.split(".")[0] for key in own[4]} == {"test/per_class", "test/confusion_table", "step"}
    assert {key.split(".")[0] for key in own[5]} == {"augmented", "step"}
    assert {key: run.summary[f"test_{key}"] for key in figures} == figures
    files = next((tmp_path / "run" / "wandb").glob("offline-run-*")) / "files" / "media"
    (per_class,) = files.glob("table/test/per_class*.json")
    assert json.loads(per_class.read_text())["data"] == [["cat", 0.5, 2], ["dog", None, 0]]
    (confusion,) = files.glob("table/test/confusion*.json")
    cells = [["cat", "cat", 1], ["cat", "dog", 1], ["dog", "cat", 0], ["dog", "dog", 0]]
    assert json.loads(confusion.read_text())["data"] == cells
    assert len(list(files.glob("images/augmented*.png"))) == 1
    assert run.exit_code == 0


def test_a_killed_run_keeps_its_rows_and_the_next_part_counts_on(tmp_path: Path) -> None:
    body = "log(10, 20, 30); settle(); time.sleep(1.5); print(service(), flush=True); os.kill(os.getpid(), 9)"
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


def test_online_a_resumed_run_is_one_run(tmp_path: Path) -> None:
    with WandbServer() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        for steps in ("1, 2, 3, 4, 5", "3, 4, 5, 6"):
            result = result_of(spawn(tmp_path / "run", "online", f"log({steps}); settle(); end()", **online))
            assert (result["mode"], result["failures"], result["service"]) == ("online", [], None)
        (run,) = server.runs.values()
        assert (run.name, run.project, run.exit_code) == ("abcd1234", "birds", 0)
        assert run.config == {"optim": {"lr": 0.1}, "run": {"seed": 3}}
        assert [row["step"] for row in run.history] == [1, 2, 3, 4, 5, 3, 4, 5, 6]
        rows = [row["_step"] for row in run.history]
        assert rows == sorted(set(rows))
        assert server.unknown == []


def test_of_many_classes_the_fullest_cells_are_kept() -> None:
    num_classes = 150
    confusion = [[0] * num_classes for _ in range(num_classes)]
    confusion[149][3], confusion[0][0] = 5, 9
    cells = mirror_module._cells([str(k) for k in range(num_classes)], confusion)
    assert len(cells) == MAX_CELLS
    assert cells[:2] == [("0", "0", 9), ("149", "3", 5)]


def test_off_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    threads, environment = threading.active_count(), dict(os.environ)
    mirror = NoWandb("abcd1234")
    mirror.log(1, 1, "train", {"loss": 1.0})
    mirror.log_picture(1, "augmented", tmp_path / "absent.png")
    mirror.log_evaluation(1, "test", {}, (), [])
    assert (mirror.mode, mirror.id, mirror.take_failures(), mirror.finish(0)) == ("disabled", "abcd1234", [], [])
    assert (threading.active_count(), dict(os.environ), list(tmp_path.iterdir())) == (threads, environment, [])
