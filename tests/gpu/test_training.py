"""The main job on CUDA. Skipped where there is none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.harness.runs import DIGITS, events, summary, train, train_records

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def train_on_gpu(cwd: Path, *overrides: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "ACCELERATE_USE_CPU"}
    words = [
        sys.executable,
        "-m",
        "launcher",
        str(DIGITS),
        "strategy.device=cuda",
        "log.wandb.mode=disabled",
        *overrides,
    ]
    subprocess.run(words, cwd=cwd, env=environment, check=True)


def test_the_gpu_trains_as_the_cpu_does(tmp_path: Path, digits: Path) -> None:
    common = [f"data.dir={digits}", "train.epochs=20st", "log.samples=true"]
    train(DIGITS, *common, "run.dir=cpu", "log.wandb.mode=disabled", cwd=tmp_path)
    train_on_gpu(tmp_path, *common, "run.dir=gpu")
    cpu, gpu = train_records(tmp_path / "cpu"), train_records(tmp_path / "gpu")
    for step, record in cpu.items():
        assert gpu[step]["samples"] == record["samples"]
        assert gpu[step]["loss"] == pytest.approx(record["loss"], rel=2e-2)


@pytest.mark.parametrize("precision", ["no", "bf16", "fp16"])
def test_every_precision_learns_the_digits(tmp_path: Path, digits: Path, precision: str) -> None:
    train_on_gpu(tmp_path, f"data.dir={digits}", f"strategy.precision={precision}", "run.dir=run")
    found = summary(tmp_path / "run")
    assert found["device"] == "cuda"
    assert found["test"]["accuracy"] >= 0.97
    assert len(events(tmp_path / "run", "overflow")) < 10


def test_copies_to_the_gpu_are_timed(tmp_path: Path, digits: Path) -> None:
    train_on_gpu(tmp_path, f"data.dir={digits}", "train.epochs=2", "data.cache=none", "run.dir=run")
    first, last = (record["ranks"][0] for record in events(tmp_path / "run", "input"))
    assert 0 < first["copy_s"] < last["copy_s"] < last["train_s"]
    assert last["augment_s"] == 0


def test_bench_measures_the_gpu(tmp_path: Path, digits: Path) -> None:
    words = [sys.executable, "-m", "launcher", "bench", str(DIGITS), f"data.dir={digits}", "strategy.device=cuda"]
    ended = subprocess.run([*words, "--seconds", "2"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "cuda, 32 images a step" in ended.stdout
