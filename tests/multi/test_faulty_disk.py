"""A disk that is too small, and checkpoints that are not what was written: what the program says and resumes from."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.checkpoint.atomic import check_folder
from launcher.cli.main import run as run_command
from launcher.errors import UserError
from launcher.train import main as program
from launcher.train.options import TrainOptions
from tests.checkpoint.test_atomic import DAMAGES
from tests.harness.runs import events, summary, train_records
from tests.harness.small_run import flip_a_bit, saved_steps
from tests.harness.workdir import LENET, WorkDir

PLAIN = (LENET, "backbone.freeze=none", "optim={name: adam, lr: 0.002}", "log.samples=true", "data.cache=none")
CHECKPOINT_BYTES = 740_000
"""Of LeNet with Adam, near enough."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Room for one checkpoint and a half."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={CHECKPOINT_BYTES * 3 // 2}", "tmpfs", str(folder)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def assert_same_training(found: Path, expected: Path) -> None:
    records, others = train_records(found), train_records(expected)
    assert {step: (r["samples"], r["loss"]) for step, r in records.items()} == {
        step: (r["samples"], r["loss"]) for step, r in others.items()
    }
    weights = [folder / "checkpoints" / "last" / "model.safetensors" for folder in (found, expected)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert summary(found)["test"] == summary(expected)["test"]


def test_a_full_disk_ends_a_run_when_patience_does_and_room_lets_it_resume(
    workdir: WorkDir, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (*PLAIN, "train.epochs=12st", "train.evaluate_every=12st", "checkpoint.every=1st", "checkpoint.keep=1")
    assert workdir.train(*common, "run.dir=whole") == 0
    folder = small_disk / "run"
    with pytest.raises(UserError) as ended:
        workdir.train(*common, f"run.dir={folder}")
    assert str(ended.value).startswith(f"{folder}/checkpoints/step-00000004: cannot be written (")
    assert "No space left" in str(ended.value)
    assert str(ended.value).endswith("and the same command resumes from step-00000001")
    assert [record["message"][:13] for record in events(folder, "checkpoint_failed")] == [
        f"step-0000000{step}" for step in (2, 3, 4)
    ]
    assert "step-00000002 could not be saved" in capsys.readouterr().out
    assert max(train_records(folder)) >= 4
    assert summary(folder)["status"] == "failed"
    assert saved_steps(folder / "checkpoints") == [1]
    assert not list(folder.glob("checkpoints/.step-*"))
    check_folder(folder / "checkpoints" / "last")

    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    assert workdir.train(*common, f"run.dir={folder}") == 0
    assert [record["step"] for record in events(folder, "resumed")] == [1]
    assert_same_training(folder, workdir.path / "whole")


def test_a_run_whose_last_save_fails_is_not_done(workdir: WorkDir, small_disk: Path) -> None:
    folder = small_disk / "run"
    common = (*PLAIN, "train.epochs=4st", "checkpoint.every=1st", "checkpoint.keep=1", "checkpoint.patience=100")
    with pytest.raises(UserError, match=r"step-00000004: cannot be written .*, the last save; fix that"):
        workdir.train(*common, f"run.dir={folder}")
    assert summary(folder)["status"] == "failed"
    assert train_records(folder).keys() == {1, 2, 3, 4}


@pytest.mark.parametrize("size_bytes", [16_000, 32_000, 48_000])
def test_a_disk_without_room_for_anything_is_one_line(
    workdir: WorkDir, small_disk: Path, size_bytes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size_bytes}", str(small_disk)], check=True)
    folder = small_disk / "run"
    words = [*PLAIN, "train.epochs=200st", "checkpoint.patience=100", f"run.dir={folder}"]
    workdir.patch.setattr(program, "log_warnings", lambda: None)
    assert run_command([str(workdir.path / "small.yaml"), *words]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("launcher: ")]
    assert len(lines) == 1
    assert "No space left" in lines[0] or "no space left" in lines[0]


def resume(workdir: WorkDir, *overrides: str) -> int:
    with workdir.patch.context() as patch:
        patch.setattr(program, "log_warnings", lambda: None)
        return program.main(workdir.load(*overrides), TrainOptions(allow_change=("train.epochs",)))


@pytest.mark.parametrize("damage", ["bit", "truncated"])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_resumed_from(
    workdir: WorkDir, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (*PLAIN, "train.evaluate_every=8st", "checkpoint.every=2st")
    assert workdir.train(*common, "train.epochs=8st", "run.dir=whole") == 0
    assert workdir.train(*common, "train.epochs=6st", "run.dir=run") == 0
    folder = workdir.path / "run"
    DAMAGES[damage](folder / "checkpoints" / "step-00000006" / "optimizer.safetensors")
    assert resume(workdir, *common, "train.epochs=8st", "run.dir=run") == 0
    [skipped] = events(folder, "checkpoint_skipped")[:1]
    assert "optimizer.safetensors: damaged" in skipped["message"]
    assert skipped["message"] in capsys.readouterr().out
    assert [record["step"] for record in events(folder, "resumed")] == [4]
    assert_same_training(folder, workdir.path / "whole")


def test_a_run_whose_checkpoints_are_all_damaged_begins_anew_and_says_so(
    workdir: WorkDir, capsys: pytest.CaptureFixture[str]
) -> None:
    common = (*PLAIN, "train.evaluate_every=8st", "checkpoint.every=2st")
    assert workdir.train(*common, "train.epochs=8st", "run.dir=whole") == 0
    assert workdir.train(*common, "train.epochs=6st", "run.dir=run") == 0
    folder = workdir.path / "run"
    for path in folder.glob("checkpoints/step-*"):
        flip_a_bit(path / "model.safetensors")
    assert resume(workdir, *common, "train.epochs=8st", "run.dir=run") == 0
    messages = [record["message"] for record in events(folder, "checkpoint_skipped")]
    assert len(messages) == 3
    assert messages[-1] == "no checkpoint to resume from: starts at step 0"
    assert messages[-1] in capsys.readouterr().out
    assert [record["step"] for record in events(folder, "resumed")] == [0]
    assert_same_training(folder, workdir.path / "whole")
