"""What many tests share: digits and synthetic pictures packed once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.commands.jobs.spawn import ADDRESS
from launcher.distributed.signals import SIGNALS
from launcher.distributed.world import SRUN, TORCHRUN
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
    "tests/commands/jobs/tune/test_main.py",
    "tests/commands/jobs/tune/test_optimiser.py",
    "tests/commands/jobs/verify_resume/test_main.py",
    "tests/commands/model/export/test_main.py::test_export_of_a_resnet",
    "tests/commands/model/export/test_main.py::test_onnx_predicts_the_same_class_for_every_digit",
    "tests/commands/recipe/test_fetch.py::test_fetch_of_timm_weights",
    "tests/commands/runs/compare/test_wandb.py",
    "tests/commands/runs/test_sync.py::test_missing_records",
    "tests/commands/runs/test_sync.py::test_an_offline_run_requeued_twice",
    "tests/commands/model/explain/test_main.py::test_two_processes_write",
    "tests/commands/test_journey.py::test_evaluate_predict_and_onnx_agree",
    "tests/commands/test_journey.py::test_upside_down",
    *(
        f"tests/data/features/test_store.py::test_other_features_are_computed[{name}"
        for name in ("augment", "backbone", "strategy", "weights")
    ),
    "tests/data/features/test_training.py::test_the_grid_of_the_first_batch_equals_that_of_a_run_on_images[words0",
    "tests/data/features/test_training.py::test_the_grid_of_the_first_batch_equals_that_of_a_run_on_images[words1",
    "tests/data/features/test_training.py::test_training_and_evaluation_may_have_different_sizes",
    "tests/data/features/test_training.py::test_training_equals_a_plain_loop[words1",
    "tests/data/features/test_training.py::test_training_equals_a_plain_loop[words2",
    "tests/data/features/test_training.py::test_training_equals_a_plain_loop[words3",
    "tests/data/test_decode_cache.py::test_cached_images_train_as_those_from_shards_do",
    "tests/docs/test_pages.py",
    "tests/models/frozen/test_freeze.py::test_every_parameter_of_a_backbone_is_in_one_block[regnet",
    *(
        f"tests/models/frozen/test_split.py::test_the_parts_compute_the_whole[{name}"
        for name in (
            "alexnet",
            "densenet",
            "efficientnet",
            "googlenet",
            "inception",
            "mnasnet",
            "mobilenet_v3",
            "regnet",
            "swin",
            "timm/efficientnet",
            "vgg",
        )
    ),
    *(
        f"tests/models/test_auxiliary.py::{name}[inception"
        for name in (
            "test_a_frozen_backbone_has_no_auxiliary_classifiers",
            "test_evaluation_is_torchvisions_network_without_auxiliary_classifiers",
            "test_training_adds_the_auxiliary_losses_and_reaches_every_weight",
        )
    ),
    "tests/models/test_timm.py::test_the_head_of_every_family",
    "tests/multi/test_accuracy.py",
    "tests/multi/test_commands.py",
    "tests/multi/test_failures.py::test_ranks_with_other_shards",
    "tests/multi/test_faulty_disk.py::test_a_damaged_checkpoint_is_reported_and_the_one_before_resumed_from[trunc",
    "tests/multi/test_frozen.py::test_frozen_on_two_processes_is_frozen_on_one",
    "tests/multi/test_frozen.py::test_nothing_that_trains_is_left_unused",
    "tests/multi/test_hangs.py::test_a_rank_that_hangs_in_data_is_named",
    "tests/multi/test_hangs.py::test_the_first_traceback",
    "tests/multi/test_kills.py",
    "tests/multi/test_lanes.py",
    "tests/multi/test_out_of_memory.py::test_the_rank_that_runs_out_of_memory_says_what_to_try[1]",
    "tests/multi/test_out_of_memory.py::test_two_that_run_out",
    "tests/multi/test_preemption.py",
    "tests/multi/test_resume.py::test_a_run_asked_to_stop",
    "tests/multi/test_resume.py::test_a_run_whose_output_nobody_reads",
    "tests/multi/test_resume.py::test_accelerate_launch_of_one_process",
    "tests/multi/test_resume.py::test_two_processes_continue_what_one_began",
    "tests/multi/test_world_sizes.py",
    "tests/run/test_wandb.py::test_a_killed_run",
    "tests/run/test_wandb.py::test_the_journal_of_a_running_run",
    "tests/run/test_wandb_failures.py::test_a_broken_server_costs_the_training_nothing",
    "tests/run/test_wandb_failures.py::test_a_server_that_dies_midway",
    "tests/security/test_folders.py::test_written_files",
    "tests/slurm",
    *(
        f"tests/train/test_main.py::test_debug_runs_every_recipe_to_the_end[{name}"
        for name in ("alexnet", "avatar", "densenet", "efficientnet", "resnet", "lenet_cifar")
    ),
    "tests/train/test_main.py::test_packing_can_be_stopped",
    "tests/train/test_remote_run.py",
    "tests/train/test_stage.py::test_a_run_cut_off_anywhere_resumes_as_if_it_were_not[{name: sgd",
)
"""What takes minutes, and further cases of what the other tests show: they start clusters, launchers and servers, train
whole networks, or build large ones. Files and beginnings of tests; only with --long."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="all tests: an hour on two cores")


def pytest_configure() -> None:
    """Signals that whoever started pytest had ignored, as nohup does: children would ignore them, too."""
    for number in SIGNALS:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    items.sort(key=turn)
    if not config.getoption("--long"):
        for item in items:
            if item.nodeid.startswith(LONG):
                item.add_marker(pytest.mark.skip(reason="takes long; pytest --long"))


def path_of(item: pytest.Item) -> str:
    return item.path.relative_to(ROOT).as_posix()


def turn(item: pytest.Item) -> int:
    return next((i for i, slow in enumerate(SLOW) if path_of(item).startswith(slow)), len(SLOW))


def pytest_xdist_auto_num_workers() -> int:
    """One more than cores: many tests wait, for other processes or for a time to pass."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


@pytest.fixture(autouse=True)
def no_launcher_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what a launcher, an allocation or a user may have set around the tests."""
    for name in (*TORCHRUN.values(), *SRUN.values(), *ADDRESS, "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


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
