"""What many tests share: digits and synthetic pictures packed once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.distributed.signals import SIGNALS
from launcher.recipe.parse import load_recipe
from launcher.recipe.resolve import pack_options
from shards.write import pack
from tests.data.made import pack_synthetic
from tests.harness.evaluated_run import train_lenet
from tests.harness.runs import DIGITS, ROOT
from tests.harness.two_runs import make_two_runs
from tests.harness.workdir import WorkDir, make_workdir

SLOW = (
    "tests/slurm",
    "tests/multi",
    "tests/commands/jobs/verify_resume",
    "tests/commands/jobs/tune",
    "tests/train/test_main.py",
    "tests/data/features",
    "tests/models",
)
"""What takes longest begins first, so that no worker is left alone with it at the end."""

LONG = (
    "tests/slurm",
    "tests/commands/jobs/tune/test_main.py",
    "tests/commands/jobs/tune/test_optimiser.py",
    "tests/commands/jobs/verify_resume",
    "tests/docs/test_pages.py",
    "tests/train/test_remote_run.py",
    "tests/multi/test_lanes.py",
    "tests/multi/test_accuracy.py",
    "tests/multi/test_kills.py",
    "tests/multi/test_preemption.py",
    "tests/multi/test_world_sizes.py",
)
"""Minutes each: clusters, searches, servers that fail, whole trainings. Only with --long."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also tests that take minutes each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=turn)
    if not config.getoption("--long"):
        for item in items:
            if path_of(item).startswith(LONG):
                item.add_marker(pytest.mark.skip(reason="takes minutes; pytest --long"))


def path_of(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT).as_posix()


def turn(item: pytest.Item) -> int:
    return next((i for i, slow in enumerate(SLOW) if path_of(item).startswith(slow)), len(SLOW))


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: many tests wait, for other processes or for a time to pass."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards that recipes/lenet_digits.yaml packs."""
    folder = tmp_path_factory.mktemp("digits") / "shards"
    pack("digits", folder, pack_options(load_recipe(DIGITS).recipe.data))
    return folder


@pytest.fixture(scope="session")
def few_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of JPEGs of 32 x 32 pixels: 42 train, 9 valid, 9 test."""
    folder = tmp_path_factory.mktemp("few") / "shards"
    pack_synthetic(folder)
    return folder


@pytest.fixture
def workdir(tmp_path: Path, few_shards: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkDir]:
    """An empty folder to train in; signals, which trainings take for themselves, are given back."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield make_workdir(tmp_path, few_shards, monkeypatch)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder with a run of digits and one of photographs, and with what is wrong for both."""
    path = tmp_path_factory.mktemp("two-runs")
    make_two_runs(path, digits)
    return path


@pytest.fixture(scope="module")
def evaluated_run(tmp_path_factory: pytest.TempPathFactory, few_shards: Path) -> Path:
    """A folder with a run to be evaluated in `run`."""
    path = tmp_path_factory.mktemp("evaluated")
    train_lenet(path, few_shards)
    return path


@pytest.fixture
def in_evaluated_run(evaluated_run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, as the working directory."""
    monkeypatch.chdir(evaluated_run)
    return evaluated_run
