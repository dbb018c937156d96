"""The store of features: what is computed, what is read again, and interrupted computations."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from accelerate.state import AcceleratorState

from launcher.data.features import store
from launcher.data.features.format import Records, write_part
from launcher.errors import DataError, Stopped
from tests.data.made import pack_synthetic
from tests.harness.runs import DIGITS, finish, start, summary, train, wait_until
from tests.harness.workdir import FLIPS, LENET, WorkDir

SPLITS = {"train": 42, "valid": 9, "test": 9}
GRID = 12
"""Images of the first batch, which are read once more for pictures/augmented.png: features do not show them."""


def weights_file(workdir: WorkDir, seed: int = 0) -> str:
    """Weights as if pretrained: the same for every run, whatever its seed."""
    torch.manual_seed(seed)
    path = workdir.path / f"weights-{seed}.pth"
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), path)
    return f"backbone.weights={path}"


def test_another_head_and_seed_read_the_same_features(workdir: WorkDir) -> None:
    weights = weights_file(workdir)
    workdir.train(weights)
    ids = workdir.count_reads()
    workdir.train(weights, "run.dir=other", "run.seed=7", "backbone.head={hidden: [8], dropout: 0.5}", "optim.lr=0.01")
    assert len(ids) == GRID
    assert len(workdir.kept()) == 3
    assert sum("read from" in message for message in workdir.said("other")) == 3


@pytest.mark.parametrize("what", ["weights", "augment.eval.0.size=[40,40]", "augment.mean=[0.4,0.5,0.5]", "data",
                                  "strategy.precision=bf16", "backbone.freeze={except_last: 1}"])  # fmt: skip
def test_other_features_are_computed(workdir: WorkDir, what: str) -> None:
    weights = weights_file(workdir)
    workdir.train(weights, "train.epochs=1")
    words = {"weights": weights_file(workdir, 1), "data": f"data.dir={workdir.path / 'more'}"}
    if what == "data":
        pack_synthetic(workdir.path / "more", images_per_shard=8)
    if what.startswith("strategy"):
        AcceleratorState._reset_state(reset_partial_state=True)
    workdir.train(weights, words.get(what, what), "train.epochs=1", "run.dir=other")
    if what.startswith("strategy"):
        AcceleratorState._reset_state(reset_partial_state=True)
    num_new = 2 if "eval" in what else 3
    assert len(workdir.kept()) == 3 + num_new
    assert sum("computing" in message for message in workdir.said("other")) == num_new


def test_features_of_random_images_depend_on_the_seed(workdir: WorkDir) -> None:
    weights = weights_file(workdir)
    words = [weights, FLIPS, "augment.views=1", "train.epochs=1"]
    workdir.train(*words)
    workdir.train(*words, "run.dir=other", "run.seed=1")
    assert sorted(metadata["split"] for metadata in workdir.kept()) == ["test", "train", "train", "valid"]


def hidden(workdir: WorkDir) -> list[str]:
    """Folders of incomplete features."""
    return [path.name for path in (workdir.path / "data/features").glob(".*")]


def test_a_stop_request_while_computing_leaves_nothing(workdir: WorkDir) -> None:
    def interrupted(records: Iterator[Records]) -> Iterator[Records]:
        for i, rows in enumerate(records):
            yield rows
            if i == 1 and len(workdir.kept()) == 1:
                signal.raise_signal(signal.SIGUSR1)

    def write(folder: Path, number: int, records: Iterator[Records]) -> int:
        return write_part(folder, number, interrupted(records))

    with workdir.patch.context() as patch:
        patch.setattr(store, "write_part", write)
        with pytest.raises(Stopped, match="the same command computes them again"):
            workdir.train(LENET, "train.eval_batch=3")
    assert summary(workdir.path / "run")["status"] == "preempted"
    [complete] = workdir.kept()
    assert hidden(workdir) == []
    ids = workdir.count_reads()
    workdir.train(LENET, "train.eval_batch=3")
    assert summary(workdir.path / "run")["status"] == "done"
    assert len(ids) == sum(SPLITS.values()) - SPLITS[complete["split"]] + GRID


def test_the_same_command_removes_what_a_killed_process_left(workdir: WorkDir) -> None:
    class Killed(BaseException):
        pass

    def die(*_: object) -> None:
        raise Killed

    with workdir.patch.context() as patch:
        patch.setattr(store, "commit_features", die)
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # a killed process removes nothing
        with pytest.raises(Killed):
            workdir.train(LENET)
    assert len(hidden(workdir)) == 1
    workdir.train(LENET)
    assert hidden(workdir) == []
    assert len(workdir.kept()) == 3


def test_a_disk_that_cannot_be_written_is_one_line(workdir: WorkDir) -> None:
    (workdir.path / "data").mkdir()
    (workdir.path / "data/features").write_text("in the way")
    with pytest.raises(DataError, match=r"cannot be written \(Not a directory\).*strategy.feature_cache_gib=0$"):
        workdir.train(LENET)


def test_a_full_disk_is_one_line_and_leaves_nothing(workdir: WorkDir) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    workdir.patch.setattr(store, "write_part", full)
    with pytest.raises(DataError, match=r"cannot be written \(No space left on device\)"):
        workdir.train(LENET)
    assert hidden(workdir) == []


def test_sigterm_while_computing_exits_resumable(tmp_path: Path, digits: Path) -> None:
    words = [f"data.dir={digits}", "augment.train=[{op: resize, size: [32, 32]}]", "backbone.freeze=backbone",
             "train={epochs: 2, global_batch: 32, eval_batch: 4}", "run.dir=run", "log.wandb.mode=disabled",
             "data.workers=0", "optim.ema_decay=0.9"]  # fmt: skip
    process = start([DIGITS, *words], tmp_path)
    wait_until(lambda: any(tmp_path.glob("data/features/.*/part-0000.bin")), process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 75, ended.err
    assert "stopped while computing features; the same command computes them again" in ended.err
    assert len(list(tmp_path.glob("data/features/*/features.json"))) < 3
    assert not list(tmp_path.glob("data/features/.*"))
    train(DIGITS, *words, cwd=tmp_path)
    assert summary(tmp_path / "run")["status"] == "done"
    assert len(list(tmp_path.glob("data/features/*/features.json"))) == 3
