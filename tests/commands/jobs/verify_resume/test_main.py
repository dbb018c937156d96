"""The verb itself: real trainings, really killed, and resumes that are wrong on purpose."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cli.main import run
from launcher.commands.jobs.verify_resume.trainings import checkpoint_interval, instrumented
from launcher.distributed.signals import SIGNALS
from launcher.recipe.parse import load_recipe
from tests.harness.runs import DIGITS, events, train_records

SABOTAGE = Path(__file__).parent / "sabotage"
STEPS = 15
EVERYTHING = (
    "augment.mixup={alpha: 0.2}",
    "train.micro_batch=8",
    "backbone.freeze={schedule: [{at: 0, freeze: {except_last: 2}}, {at: 8st, freeze: none}]}",
)
ONE_SIZE = "train.global_batch=31"
"""So many images can be shared by no other number of processes."""


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder on a machine without GPUs; signals, which the verb takes for itself, are given back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


def verify(digits: Path, *words: str) -> int:
    return run(["verify-resume", str(DIGITS), f"data.dir={digits}", "--steps", str(STEPS), "--seed", "4", *words])


def verdicts(out: str) -> dict[tuple[str, str], str]:
    """(run, compared) -> verdict, from the table."""
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line[:1] == "│"]
    return {(run.partition(":")[0], compared): verdict for run, compared, verdict in cells}


def test_a_right_resume_is_the_same(cwd: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Averaged weights, accumulation, mixing and a stage of freezing that begins on the way."""
    assert verify(digits, *EVERYTHING, "--keep", "kept") == 0
    out = capsys.readouterr().out
    found = verdicts(out)
    goes_on = {name: found.pop((name, "goes on")) for name in ("killed", "resized")}
    chains = {compared: found[("killed", compared)] for compared in ("sample ids", "augmentation")}
    assert all(chain.startswith(f"same: {STEPS} steps, chain ") for chain in chains.values())
    assert found == {
        **{(name, compared): chain for name in ("killed", "resized") for compared, chain in chains.items()},
        ("killed", "losses"): "same: to the last digit",
        ("killed", "weights"): "same: to the last bit",
        ("resized", "losses"): "same: within 0.10%, as sums are rounded in another order",
        ("resized", "weights"): "not comparable (sums over other processes are rounded in another order)",
    }
    assert out.endswith("killed and resumed is the same as never interrupted, in all that can be compared\n")
    assert "--seed 4 draws them again" in out
    for name, words in goes_on.items():
        resumed = events(cwd / "kept" / name, "resumed")
        assert [record["plan"]["world_size"] for record in resumed] == [1 if name == "killed" else 2]
        killed_after = max(train_records(cwd / "kept" / name))
        assert killed_after == STEPS
        assert words.startswith("same: killed after step ")
        assert words.endswith(f", went on from step {resumed[0]['step']}")
        assert resumed[0]["step"] >= checkpoint_interval(STEPS)
    assert sorted(path.name for path in cwd.iterdir()) == ["kept"]
    assert not list((cwd / "kept").glob("*/wandb"))


def sabotage(monkeypatch: pytest.MonkeyPatch, alone: str, together: str = "crash") -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SABOTAGE), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("SABOTAGE_ALONE", alone)
    monkeypatch.setenv("SABOTAGE_TOGETHER", together)


def test_an_order_that_follows_from_the_number_of_starts_is_found(
    cwd: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sabotage(monkeypatch, "order")
    assert verify(digits, ONE_SIZE, "--keep", "kept") == 1
    out = capsys.readouterr().out
    found = verdicts(out)
    step = events(cwd / "kept" / "killed", "resumed")[0]["step"] + 1
    assert found[("killed", "goes on")].startswith("same: ")
    assert found[("killed", "sample ids")].startswith(f"differs at step {step} (sample 1 of 31 is ")
    assert found[("killed", "augmentation")].startswith(f"differs at step {step} (parameters ")
    assert found[("killed", "losses")].startswith(f"differs at step {step} (loss ")
    assert found[("killed", "weights")].startswith(f"differs at step {STEPS} (")
    assert found[("resized", "everything")] == "not comparable (the recipe fits no other number of processes here)"
    assert out.endswith("killed and resumed is not the same as never interrupted: 4 of 6 differ\n")


def test_other_augmentation_and_a_start_that_fails_are_found(
    cwd: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sabotage(monkeypatch, "augmentation", "crash")
    monkeypatch.setattr("tempfile.tempdir", str(cwd))
    assert verify(digits) == 1
    out = capsys.readouterr().out
    found = verdicts(out)
    [folder] = cwd.glob("launcher-verify-*")
    assert f"what the runs left is in {folder}" in out
    step = events(folder / "killed", "resumed")[0]["step"] + 1
    assert found[("killed", "sample ids")].startswith("same: ")
    assert found[("killed", "augmentation")].startswith(f"differs at step {step} (parameters ")
    newest = max(train_records(folder / "resized"))
    failed = found[("resized", "goes on")]
    assert failed.startswith(f"differs after step {newest} (rank ")
    assert failed.endswith(" ended with exit code 1: SystemExit: launcher: no such luck)")


def test_a_recipe_that_does_not_run_is_the_users_mistake(
    cwd: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(digits, "optim.lr=1e30", "--keep", "kept") == 2
    err = capsys.readouterr().err
    assert err.startswith("launcher: whole run: rank 0 ended with exit code 2: loss is nan at step ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "3"], "--steps 3: must be at least 4: a checkpoint, a kill, and some more"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
        (["--other-processes", "0"], "--other-processes 0: must be at least 1"),
        (["--other-processes", "1"], "--other-processes 1: is what --processes says; name another number"),
        (["--hang-s", "0"], "--hang-s 0: must be more than 0"),
        (["--keep", "full"], "--keep full: is not empty; name another folder"),
        (["--keep", "full/file"], "--keep full/file: cannot be made (File exists); name another folder"),
        (["strategy.device=cuda"], "1 processes on this node but 0 GPUs: start with --num_processes 1, or set "),
        (["optim.lr=-1"], "command line: optim.lr: must be more than 0, not -1"),
        (["--processes", "5"], "train.global_batch: 32 cannot be shared equally by 5 processes; try 30"),
        (["--other-processes", "5"], "train.global_batch: 32 cannot be shared equally by 5 processes; try 30"),
    ],
)
def test_wrong_words(
    cwd: Path, digits: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (cwd / "full").mkdir()
    (cwd / "full" / "file").touch()
    assert run(["verify-resume", str(DIGITS), f"data.dir={digits}", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in cwd.iterdir()] == ["full"]


def test_it_is_one_process(cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert run(["verify-resume", str(DIGITS)]) == 2
    assert "verify-resume starts its processes itself: launcher verify-resume RECIPE --processes N" in (
        capsys.readouterr().err
    )


def test_the_runs_are_recipes_whatever_the_length() -> None:
    for steps in (4, 20, 1000):
        recipe = load_recipe(DIGITS, instrumented(steps)).recipe
        assert recipe.log.wandb.mode == "disabled"
        assert recipe.train.epochs.steps(33, 32) == steps
        assert recipe.checkpoint.every is not None
        assert 1 <= recipe.checkpoint.every.steps(33, 32) < steps - 1
