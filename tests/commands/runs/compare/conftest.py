"""Trained runs: two learning rates, two seeds of each."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest

from launcher.distributed.signals import SIGNALS
from tests.commands.runs.run_folders import train
from tests.harness.workdir import make_workdir


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, few_shards: Path) -> Path:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        workdir = make_workdir(folder, few_shards, patch)
        for seed in (0, 1):
            train(workdir, f"slow-{seed}", f"run.seed={seed}")
            train(workdir, f"fast-{seed}", f"run.seed={seed}", "optim.lr=0.02")
    for number, handler in before.items():
        signal.signal(number, handler)
    return folder


@pytest.fixture
def runs(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of them that a test may damage: `runs` in the working directory."""
    shutil.copytree(trained / "runs", tmp_path / "runs", symlinks=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs")
