from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.cli.main import run
from launcher.commands.jobs.sbatch import ARRAY, TRAIN, SlurmJob, render_job
from launcher.run.journal import Journal
from tests.harness.runs import DIGITS, ROOT

GOLDEN = Path(__file__).parent / "submitted.sbatch"

WORDS = ["recipes/resnet50_caltech.yaml", "train.epochs=10", "data.source=imagefolder:my pictures"]


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the recipes, and without data or earlier runs."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("job", "file"), [(TRAIN, "train.sbatch"), (ARRAY, "array.sbatch")])
def test_sbatch_files_are_rendered_jobs(job: SlurmJob, file: str) -> None:
    """After a change: python -c "from launcher.commands.jobs.sbatch import *; print(render_job(TRAIN), end=str())"."""
    assert (ROOT / "slurm" / file).read_text() == render_job(job)


def test_dry_run_prints_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--nodes", "4", "--gpus-per-node", "8", "--time", "2-00:00:00", "--cpus-per-task", "96"]
    site = ["--partition", "a100", "--account", "vision", "--qos", "high", "--starter", "srun"]
    assert run(["submit", *WORDS, "train.global_batch=64", *options, *site, "--dry-run"]) == 0
    assert capsys.readouterr().out == GOLDEN.read_text()


def test_arguments_reach_the_launcher_unchanged() -> None:
    arguments = ("a b.yaml", "data.source=imagefolder:it's; $HOME `x`", "data.split={train: 0.8, valid: rest}")
    [line] = [line for line in render_job(SlurmJob(arguments=arguments)).splitlines() if line.startswith("set -- ")]
    shown = subprocess.run(["bash", "-c", f'{line}; printf "%s\\n" "$@"'], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == list(arguments)


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
            "--cpus-per-task 4: 2 processes with data.workers=8 need 16 CPUs a node; set 16, or lower data.workers",
        ),
        (["--nodes", "0"], "--nodes 0 --gpus-per-node 1: at least 1 node and 0 GPUs"),
        (
            ["--time", "soon"],
            "--time soon: write minutes, hours:minutes:seconds or days-hours, for example 12:00:00",
        ),
        (["--partition", "a b"], "--partition a b: is not a name that sbatch accepts"),
        ([], "sbatch is not installed here: submit on a node of the cluster, or print the job with --dry-run"),
        (["optim.lr=-1"], "command line: optim.lr: must be more than 0, not -1"),
    ],
)
def test_mistake_is_one_line(
    words: list[str], message: str, cwd: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(cwd))
    assert run(["submit", str(DIGITS), *words]) == 2
    assert capsys.readouterr().err == f"launcher: {message}\n"


@pytest.fixture
def sbatch(cwd: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a stand-in for sbatch, a shell script, on the path."""

    def install(script: str) -> None:
        program = cwd / "bin" / "sbatch"
        program.parent.mkdir()
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")

    return install


def test_submit_sends_the_job_and_prints_its_id(
    sbatch: Callable[[str], None], cwd: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["submit", str(DIGITS), "--nodes", "2", "--dry-run"]) == 0
    text = capsys.readouterr().out
    sbatch("cat > sent; echo '77;cluster'")
    assert run(["submit", str(DIGITS), "--nodes", "2"]) == 0
    assert capsys.readouterr().out == "job 77: lenet_digits, 2 x 1 processes; follow it with squeue --me\n"
    assert (cwd / "sent").read_text() == text


def test_refusal_of_sbatch_is_one_line(sbatch: Callable[[str], None], capsys: pytest.CaptureFixture[str]) -> None:
    sbatch("echo 'sbatch: error: invalid partition\nsbatch: error: Batch job submission failed' >&2; exit 1")
    assert run(["submit", str(DIGITS)]) == 2
    reason = "invalid partition Batch job submission failed"
    advice = "change the options, or print the job with --dry-run"
    assert capsys.readouterr().err == f"launcher: sbatch refused the job: {reason}; {advice}\n"


def test_processes_that_cannot_share_the_batch_are_refused(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["submit", str(DIGITS), f"data.dir={digits}", "--nodes", "3", "--gpus-per-node", "8"]
    assert run(words) == 2
    assert "train.global_batch: 32 cannot be shared equally by 24 ranks; try 24" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["train.sbatch", "array.sbatch"])
def test_script_without_a_recipe_prints_its_usage(file: str) -> None:
    ended = subprocess.run(["bash", ROOT / "slurm" / file], capture_output=True, text=True, env={"PATH": "/bin"})
    assert ended.returncode == 2
    assert ended.stderr.startswith("usage: sbatch ")
    assert len(ended.stderr.splitlines()) == 1


def test_warning_time_follows_from_the_longest_save(cwd: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder, write_s in (("lenet_digits/1", 20.0), ("lenet_digits-77", 99.5), ("other/1", 1000.0)):
        (cwd / "runs" / folder).mkdir(parents=True)
        journal = Journal(cwd / "runs" / folder, steps_per_epoch=5)
        journal.write("train", 5)
        journal.write("checkpoint", 5, blocked_s=0.5, write_s=write_s)
        journal.close()
    assert run(["submit", str(DIGITS), "--dry-run"]) == 0
    assert "#SBATCH --signal=B:USR1@400\n" in capsys.readouterr().out
