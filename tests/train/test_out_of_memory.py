"""A GPU that is too small: one line with a batch and what to try, for each way in which it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from launcher.cli.main import run as run_command
from launcher.distributed.watchdog.beacon import Phase, Position
from launcher.metrics.counts import Counts
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.train import loop, main
from launcher.train.out_of_memory import describe_training, find_smaller_micro_batch, is_out_of_memory
from launcher.train.step import train_step
from tests.harness.runs import summary
from tests.harness.workdir import LENET, WorkDir
from tests.recipe.plans import plan_of, recipe

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"


@pytest.mark.parametrize(
    ("phase", "train", "cache", "what", "tries"),
    [
        ("backward", {}, "auto", "train.micro_batch 256 images", "train.micro_batch=128 or data.cache=none or {train}"),
        ("data", {"micro_batch": 1}, "decoded", "train.micro_batch 1 image", "{train}"),
        ("evaluate", {"eval_batch": 100}, "none", "train.eval_batch 100 images", "train.eval_batch=50 or {eval}"),
        ("features", {}, "none", "train.eval_batch 256 images", "train.eval_batch=128 or {eval}"),
    ],
)
def test_the_line_names_the_batch_and_what_to_try(
    phase: Phase, train: dict[str, int], cache: str, what: str, tries: str
) -> None:
    small = recipe(train={"global_batch": 512, **train}, data={"cache": cache})
    line = describe_training(small, plan_of(small, 2, train=4096, valid=100), Position(phase, 12, False))
    key, _, images = what.partition(" ")
    sizes = {split: f"a smaller size in augment.{split}" for split in ("train", "eval")}
    assert line == (
        f"{key}: a forward pass of {images} takes more memory than the GPU has (in {phase} of step 12); "
        f"try {tries.format(**sizes)}, with --allow-change or --fresh"
    )


@pytest.mark.parametrize(
    ("rank_batch", "micro_batch", "mixes", "smaller"),
    [
        (256, 256, False, 128),
        (36, 9, False, 4),
        (30, 15, False, 6),
        (30, 10, True, 2),
        (36, 12, True, 6),
        (4, 2, True, 0),
    ],
)
def test_the_smaller_batch_is_one_that_can_be_set(rank_batch: int, micro_batch: int, mixes: bool, smaller: int) -> None:
    def planned(batch: int) -> tuple[Recipe, Plan]:
        train = {"global_batch": rank_batch, "micro_batch": batch}
        found = recipe(train=train, augment={"mixup": {"alpha": 0.2}} if mixes else {})
        return found, plan_of(found, train=4096)

    assert find_smaller_micro_batch(*planned(micro_batch)) == smaller
    if smaller:
        assert planned(smaller)[1].micro_batch == smaller


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(), True),
        (torch.OutOfMemoryError(MESSAGE), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (MemoryError(), False),
    ],
)
def test_libraries_say_it_in_their_own_ways(error: Exception, expected: bool) -> None:
    assert is_out_of_memory(error) == expected


def train_and_fail(workdir: WorkDir, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a training prints as an error, that ends with exit code 2."""
    workdir.patch.setattr(main, "log_warnings", lambda: None)
    capsys.readouterr()
    assert run_command(["small.yaml", LENET, *words]) == 2
    found = summary(workdir.path / "run")
    assert found["status"] == "failed"
    log = (workdir.path / "run/logs/rank-0.log").read_text()
    assert "Traceback" in log
    assert f"OutOfMemoryError: {MESSAGE}" in log
    return capsys.readouterr().err


def run_out(*_: object) -> None:
    raise torch.OutOfMemoryError(MESSAGE)


def test_a_training_that_runs_out_of_memory_says_so_in_one_line(
    workdir: WorkDir, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail_at_3(job: Any, stage: Any, batches: Any, step: int, *others: Any) -> Any:
        job.strategy.comm.beacon.enter("forward", step)
        return run_out() if step == 3 else train_step(job, stage, batches, step, *others)

    workdir.patch.setattr(loop, "train_step", fail_at_3)
    assert train_and_fail(workdir, capsys, "data.cache=decoded") == (
        "launcher: train.micro_batch: a forward pass of 12 images takes more memory than the GPU has "
        "(in forward of step 3); "
        "try train.micro_batch=6 or a smaller size in augment.train, with --allow-change or --fresh\n"
    )


def test_a_validation_that_runs_out_of_memory_names_its_own_batch(
    workdir: WorkDir, capsys: pytest.CaptureFixture[str]
) -> None:
    workdir.patch.setattr(Counts, "add", run_out)
    assert "train.eval_batch: a forward pass of 5 images takes more memory" in train_and_fail(workdir, capsys)


def test_another_command_that_runs_out_of_memory_is_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("launcher.commands.model.evaluate.main.evaluate_run", run_out)
    assert run_command(["evaluate", str(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "launcher: this GPU has not enough memory; free it from other programs (nvidia-smi shows them), "
        "or compute on a CPU (--device cpu, strategy.device=cpu)\n"
    )
