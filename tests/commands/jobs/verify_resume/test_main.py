"""The command: real trainings, really killed, and resumes that are wrong on purpose."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.cli.main import run
from launcher.commands.jobs.verify_resume.verification import checkpoint_interval, instrumented
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
"""A batch that no other number of processes can share."""


@pytest.fixture
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder on a machine without GPUs; the signal handlers are restored afterwards."""
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


def test_right_resume_is_the_same(cwd: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Averaged weights, accumulation, mixing and a second stage of freezing."""
    assert verify(digits, *EVERYTHING, "--keep", "kept") == 0
    out = capsys.readouterr().out
    found = verdicts(out)
    resumes = {name: found.pop((name, "resume")) for name in ("killed", "resized")}
    chains = {compared: found[("killed", compared)] for compared in ("sample ids", "augmentation")}
    assert all(chain.startswith(f"same: {STEPS} steps, hash ") for chain in chains.values())
    assert found == {
        **{(name, compared): chain for name in ("killed", "resized") for compared, chain in chains.items()},
        ("killed", "losses"): "same: to the last digit",
        ("killed", "weights"): "same: to the last bit",
        ("resized", "losses"): "same: within 0.10%, as sums are rounded in another order",
        ("resized", "weights"): "not comparable (sums over another number of processes are rounded in another order)",
    }
    assert out.endswith("killing and resuming gives the same training, in everything that can be compared\n")
    assert "; --seed 4 repeats them\n" in out
    for name, words in resumes.items():
        resumed = events(cwd / "kept" / name, "resumed")
        assert [record["plan"]["world_size"] for record in resumed] == [1 if name == "killed" else 2]
        killed_after = max(train_records(cwd / "kept" / name))
        assert killed_after == STEPS
        assert words.startswith("same: killed after step ")
        assert words.endswith(f", resumed at step {resumed[0]['step']}")
        assert resumed[0]["step"] >= checkpoint_interval(STEPS)
    assert sorted(path.name for path in cwd.iterdir()) == ["kept"]
    assert not list((cwd / "kept").glob("*/wandb"))


def sabotage(monkeypatch: pytest.MonkeyPatch, alone: str, together: str = "crash") -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SABOTAGE), os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("SABOTAGE_ALONE", alone)
    monkeypatch.setenv("SABOTAGE_TOGETHER", together)


def test_wrong_order_after_a_resume_is_found(
    cwd: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sabotage(monkeypatch, "order")
    assert verify(digits, ONE_SIZE, "--keep", "kept") == 1
    out = capsys.readouterr().out
    found = verdicts(out)
    step = events(cwd / "kept" / "killed", "resumed")[0]["step"] + 1
    assert found[("killed", "resume")].startswith("same: ")
    assert found[("killed", "sample ids")].startswith(f"differs at step {step} (sample 1 of 31 is ")
    assert found[("killed", "augmentation")].startswith(f"differs at step {step} (parameters ")
    assert found[("killed", "losses")].startswith(f"differs at step {step} (loss ")
    assert found[("killed", "weights")].startswith(f"differs at step {STEPS} (")
    assert found[("resized", "everything")] == "not comparable (the recipe fits no other number of processes here)"
    assert out.endswith("killing and resuming does not give the same training: 4 of 6 comparisons differ\n")


def test_wrong_augmentation_and_a_failed_resume_are_found(
    cwd: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sabotage(monkeypatch, "augmentation", "crash")
    monkeypatch.setattr("tempfile.tempdir", str(cwd))
    assert verify(digits) == 1
    out = capsys.readouterr().out
    found = verdicts(out)
    [folder] = cwd.glob("launcher-verify-*")
    assert f"the runs are kept in {folder}\n" in out
    step = events(folder / "killed", "resumed")[0]["step"] + 1
    assert found[("killed", "sample ids")].startswith("same: ")
    assert found[("killed", "augmentation")].startswith(f"differs at step {step} (parameters ")
    newest = max(train_records(folder / "resized"))
    failed = found[("resized", "resume")]
    assert failed.startswith(f"differs after step {newest} (rank ")
    assert failed.endswith(" ended with exit code 1: SystemExit: launcher: no such luck)")


def test_recipe_that_fails_is_a_user_error(cwd: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify(digits, "optim.lr=1e30", "--keep", "kept") == 2
    err = capsys.readouterr().err
    assert err.startswith("launcher: uninterrupted run: rank 0 ended with exit code 2: loss is nan at step ")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "3"], "--steps 3: must be at least 4: for a checkpoint, a kill and steps after it"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
        (["--other-processes", "0"], "--other-processes 0: must be at least 1"),
        (["--other-processes", "1"], "--other-processes 1: is the same as --processes; choose another number"),
        (["--hang-s", "0"], "--hang-s 0: must be more than 0"),
        (["--keep", "full"], "--keep full: is not empty; name another folder"),
        (["--keep", "full/file"], "--keep full/file: cannot be made (File exists); name another folder"),
        (["strategy.device=cuda"], "1 processes on this node but 0 GPUs: start with --num_processes 1, or set "),
        (["optim.lr=-1"], "command line: optim.lr: must be more than 0, not -1"),
        (["--processes", "5"], "train.global_batch: 32 cannot be shared equally by 5 ranks; try 30"),
        (["--other-processes", "5"], "train.global_batch: 32 cannot be shared equally by 5 ranks; try 30"),
    ],
)
def test_wrong_options_are_one_line(
    cwd: Path, digits: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (cwd / "full").mkdir()
    (cwd / "full" / "file").touch()
    assert run(["verify-resume", str(DIGITS), f"data.dir={digits}", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line
    assert [path.name for path in cwd.iterdir()] == ["full"]


def test_command_started_as_one_of_several_ranks_is_refused(
    cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert run(["verify-resume", str(DIGITS)]) == 2
    assert "verify-resume starts its processes itself: launcher verify-resume RECIPE --processes N" in (
        capsys.readouterr().err
    )


def test_overrides_are_valid_for_any_number_of_steps() -> None:
    for steps in (4, 20, 1000):
        recipe = load_recipe(DIGITS, instrumented(steps)).recipe
        assert recipe.log.wandb.mode == "disabled"
        assert recipe.train.epochs.steps(33, 32) == steps
        assert recipe.checkpoint.every is not None
        assert 1 <= recipe.checkpoint.every.steps(33, 32) < steps - 1
