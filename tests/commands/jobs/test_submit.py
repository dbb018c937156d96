from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from launcher.cli.main import run
from launcher.commands.jobs.submit import ARRAY, TRAIN, Job, render_job
from tests.harness.runs import DIGITS, ROOT

GOLDEN = Path(__file__).parent / "submitted.sbatch"

WORDS = ["recipes/resnet50_caltech.yaml", "train.epochs=10", "data.source=imagefolder:my pictures"]


@pytest.fixture(autouse=True)
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(("job", "file"), [(TRAIN, "train.sbatch"), (ARRAY, "array.sbatch")])
def test_the_files_to_hand_to_sbatch_are_rendered_jobs(job: Job, file: str) -> None:
    """After a change: python -c "from launcher.commands.jobs.submit import *; print(render_job(TRAIN), end=str())"."""
    assert (ROOT / "slurm" / file).read_text() == render_job(job)


def test_dry_run_prints_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--nodes", "4", "--gpus-per-node", "8", "--time", "2-00:00:00", "--cpus-per-task", "96"]
    site = ["--partition", "a100", "--account", "vision", "--qos", "high", "--starter", "srun"]
    assert run(["submit", *WORDS, "train.global_batch=64", *options, *site, "--dry-run"]) == 0
    assert capsys.readouterr().out == GOLDEN.read_text()


def test_words_reach_the_launcher_as_they_are() -> None:
    words = ("a b.yaml", "data.source=imagefolder:it's; $HOME `x`", "data.split={train: 0.8, valid: rest}")
    [line] = [line for line in render_job(Job(words=words)).splitlines() if line.startswith("set -- ")]
    shown = subprocess.run(["bash", "-c", f'{line}; printf "%s\\n" "$@"'], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == list(words)


def test_cpus_follow_the_workers(capsys: pytest.CaptureFixture[str]) -> None:
    def cpus(*words: str) -> str:
        assert run(["submit", str(DIGITS), "--dry-run", *words]) == 0
        [line] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#SBATCH --cpus-per-task=")]
        return line.partition("--cpus-per-task=")[2]

    assert cpus() == "8"
    assert cpus("--gpus-per-node", "4") == "32"
    assert cpus("--gpus-per-node", "4", "data.workers=3") == "12"
    assert cpus("--gpus-per-node", "0", "data.workers=0") == "1"
    assert cpus("--gpus-per-node", "4", "data.workers=3", "--cpus-per-task", "20") == "20"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--gpus-per-node", "2", "data.workers=8", "--cpus-per-task", "4"],
            "--cpus-per-task 4: 2 processes with data.workers=8 need 16 on a node; ask for 16, or lower data.workers",
        ),
        (["--nodes", "0"], "--nodes 0 --gpus-per-node 1: at least 1 node and 0 GPUs"),
        (
            ["--time", "soon"],
            "--time soon: write minutes, hours:minutes:seconds or days-hours, for example 12:00:00",
        ),
        (["--partition", "a b"], "--partition a b: is not a name that sbatch can take"),
        ([], "sbatch is not here: submit on a machine of the cluster, or see the job with --dry-run"),
        (["optim.lr=-1"], "command line: optim.lr: must be more than 0, not -1"),
    ],
)
def test_mistake_is_one_line(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(["submit", str(DIGITS), *words]) == 2
    assert capsys.readouterr().err == f"launcher: {message}\n"


def test_processes_that_cannot_share_the_batch(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["submit", str(DIGITS), f"data.dir={digits}", "--nodes", "3", "--gpus-per-node", "8"]
    assert run(words) == 2
    assert "train.global_batch: 32 cannot be shared equally by 24 processes; try 24" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["train.sbatch", "array.sbatch"])
def test_a_script_without_a_recipe_says_how_it_is_used(file: str) -> None:
    ended = subprocess.run(["bash", ROOT / "slurm" / file], capture_output=True, text=True, env={"PATH": "/bin"})
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: sbatch ")
    assert len(ended.stderr.splitlines()) == 1


def test_the_warning_is_early_enough_for_the_longest_save_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, write_s in (("lenet_digits/1", 20.0), ("lenet_digits-77", 99.5), ("other/1", 1000.0)):
        (tmp_path / "runs" / folder).mkdir(parents=True)
        records = [{"kind": "train"}, {"kind": "checkpoint", "blocked_s": 0.5, "write_s": write_s}]
        (tmp_path / "runs" / folder / "journal.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in records))
    assert run(["submit", str(DIGITS), "--dry-run"]) == 0
    assert "#SBATCH --signal=B:USR1@400\n" in capsys.readouterr().out
