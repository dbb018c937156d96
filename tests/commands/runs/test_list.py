"""`launcher runs`: the table, its order, and damaged folders."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import run as command
from launcher.run.lock_file import claim
from launcher.text import show_duration
from tests.commands.runs.run_folders import copy, records, rewrite, summary, train
from tests.harness.runs import ROOT
from tests.harness.workdir import WorkDir


def listed(capsys: pytest.CaptureFixture[str], *folders: str) -> list[dict[str, Any]]:
    capsys.readouterr()
    assert command(["runs", "--json", *folders]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def backdate(run: Path, seconds: float) -> None:
    rewrite(run, [{**record, "time_s": record["time_s"] - seconds} for record in records(run)])


def test_runs_of_every_status_are_listed(workdir: WorkDir, capsys: pytest.CaptureFixture[str]) -> None:
    done = train(workdir, "small/done")
    backdate(done, 3600)
    cut = copy(done, "cut")
    rewrite(cut, [record for record in records(cut) if record["step"] <= 3])
    (cut / "summary.json").unlink()
    backdate(cut, 7200)
    running = copy(cut, "running")
    backdate(running, -10000)
    preempted = copy(cut, "preempted")
    rewrite(preempted, [*records(cut), {**records(cut)[-1], "kind": "event", "name": "preempted"}])
    backdate(preempted, 100000)
    in_use = claim(running)
    found = listed(capsys)
    os.close(in_use)
    assert [Path(each["folder"]).name for each in found] == ["running", "done", "cut", "preempted"]
    assert [each["status"] for each in found] == ["running", "done", "cut off", "preempted"]
    best = summary(done)["best"]
    expected = {"name": "small", "step": 6, "total_steps": 6, "epoch": 2, "num_epochs": 2, "best_value": best["value"]}
    assert {key: found[1][key] for key in expected} == expected
    assert found[1]["images_per_s"] == summary(done)["train"]["images_per_s"]
    assert (found[2]["step"], found[2]["epoch"], found[2]["best_epoch"]) == (3, 1, 1)
    [first] = [each for each in records(cut) if each["kind"] == "eval"]
    assert (found[2]["best_metric"], found[2]["best_value"]) == ("accuracy", first["accuracy"])
    assert found[1]["age_s"] == pytest.approx(time.time() - records(done)[-1]["time_s"], abs=5)


def test_the_table_has_a_row_for_each_run(workdir: WorkDir, capsys: pytest.CaptureFixture[str]) -> None:
    train(workdir, "one")
    capsys.readouterr()
    assert command(["runs"]) == 0
    out = capsys.readouterr().out
    [head] = [line for line in out.splitlines() if "images/s" in line]
    names = [cell.strip() for cell in head.split("┃")[1:-1]]
    assert names == ["run", "name", "status", "step", "epoch", "best valid", "images/s", "last record"]
    [row] = [line for line in out.splitlines() if "runs/one" in line]
    cells = [cell.strip() for cell in row.split("│")[1:-1]]
    assert cells[:5] == ["runs/one", "small", "done", "6/6", "2/2"]
    best = summary(Path("runs/one"))["best"]
    assert cells[5] == f"accuracy {best['value']:.2%} (epoch {best['epoch']})"
    assert cells[6] == f"{summary(Path('runs/one'))['train']['images_per_s']:,.0f}"
    assert cells[7].endswith(" s ago")


def test_nothing_in_a_folder_makes_the_list_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile: dict[str, dict[str, str | bytes]] = {
        "no-json": {"journal.jsonl": "{\n"},
        "binary": {"journal.jsonl": bytes(range(256)) + b"\n", "recipe.lock.yaml": bytes(range(256))},
        "list": {"summary.json": "[1]", "journal.jsonl": ""},
        "words": {"summary.json": '{"status": 3, "best": "x", "train": [], "name": {}}'},
        "yaml": {"recipe.lock.yaml": "a: [", "summary.json": '{"status": "done", "best": {"metric": "loss"}}'},
        "plan": {
            "journal.jsonl": '{"step": 1, "epoch": 1, "kind": "train", "time_s": 1, "plan": 3, "name": "started"}\n'
        },
        "zero": {
            "journal.jsonl": '{"step": 1, "epoch": 1, "kind": "event", "time_s": 1, "name": "started", '
            '"plan": {"steps_per_epoch": 0, "total_steps": "inf"}}\n'
        },
        "\x1b[2J": {"summary.json": '{"status": "done", "name": "\\u001b[31m"}'},
        "foreign": {"notes.txt": "mine"},
    }
    for name, files in hostile.items():
        (tmp_path / name).mkdir()
        for file, content in files.items():
            (tmp_path / name / file).write_bytes(content.encode() if isinstance(content, str) else content)
    (tmp_path / "list" / ".in-use").mkdir()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = {Path(each["folder"]).name: each for each in listed(capsys, str(tmp_path))}
    assert found.keys() == hostile.keys() - {"foreign"}
    assert found["no-json"]["status"] == found["binary"]["status"] == "damaged"
    assert "line 1 is not a record" in found["no-json"]["problem"]
    assert command(["runs", str(tmp_path)]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_missing_runs_and_folders_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command(["runs"]) == 0
    assert capsys.readouterr().out == "runs: no runs; launcher RECIPE starts one\n"
    assert command(["runs", "nowhere"]) == 2
    assert capsys.readouterr().err == (
        "launcher: nowhere: no such folder; give folders that hold runs, or none for runs/\n"
    )


def test_durations_are_short() -> None:
    shown = [show_duration(seconds) for seconds in (0, 99, 600, 7200, 864000)]
    assert shown == ["0 s", "99 s", "10 min", "2.0 h", "10.0 d"]


@pytest.mark.parametrize("arguments", [["runs", "."], ["watch", "x"], ["compare", "x", "y"]])
def test_torch_is_not_loaded(tmp_path: Path, arguments: list[str]) -> None:
    code = f"import sys, launcher.cli.main; launcher.cli.main.run({arguments}); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True)
    assert ended.returncode == 0
