"""Stages of freezing: what each sets free, at which learning rate, and that a run cut off resumes as if whole."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from launcher.data.features import store as feature_store
from launcher.data.reader import ShardReader
from launcher.distributed.comm import Comm
from launcher.errors import Stopped, UserError
from launcher.train import loop
from launcher.train.stage import Stage, check_frozen
from launcher.train.step import train_step
from tests.harness.runs import DIGITS, events, start, stop_after, summary, train, train_records
from tests.harness.workdir import FLIPS, LENET, STAGES, WorkDir

STEPS_PER_EPOCH = 3
FREE = (("fc3",), ("fc2", "fc3"), ("conv1", "conv2", "fc1", "fc2", "fc3"))
"""Layers of LeNet that train in each stage."""
SHORT = [LENET, STAGES, "train.epochs=3", "checkpoint.keep=10"]


def weights(workdir: WorkDir, step: int, run: str = "run") -> dict[str, Tensor]:
    return load_file(workdir.path / run / "checkpoints" / f"step-{step:08d}" / "model.safetensors")


def last_weights(folder: Path) -> bytes:
    return (folder / "checkpoints" / "last" / "model.safetensors").read_bytes()


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("room", ["20", "0"])
def test_each_stage_trains_what_it_sets_free(workdir: WorkDir, room: str) -> None:
    first = workdir.build(*SHORT, "run.dir=first").state.model.state_dict()
    workdir.train(*SHORT, f"strategy.feature_cache_gib={room}")
    states = [first, *(weights(workdir, step) for step in (3, 6, 9))]
    for stage, free in enumerate(FREE):
        assert changed(states[stage], states[stage + 1]) == set(free)
    num_kept = 0 if room == "0" else 4  # train and valid in two stages; the last freezes nothing
    assert len(workdir.kept()) == num_kept


def test_kept_features_and_pictures_train_the_same_stages(workdir: WorkDir) -> None:
    for words in ([], [FLIPS, "augment.views=2"]):
        workdir.train(*SHORT, *words, f"run.dir=kept{len(words)}")
        workdir.train(*SHORT, *words, f"run.dir=pictures{len(words)}", "strategy.feature_cache_gib=0")
        expected = workdir.losses(f"pictures{len(words)}")
        assert len(expected) == 9
        assert workdir.losses(f"kept{len(words)}") == pytest.approx(expected, rel=1e-4)


def lr_scales(stage: Stage) -> dict[str, float]:
    """Layer -> learning rate of its weight, over the recipe's."""
    model, groups = stage.state.model, stage.state.optimizer.param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [(names[id(parameter)], group["lr_scale"]) for group in groups for parameter in group["params"]]
    assert len({name for name, _ in held}) == len(held), "no parameter is stepped twice"
    assert {name for name, _ in held} == {name for name, each in model.named_parameters() if each.requires_grad}
    return {name.partition(".")[0]: scale for name, scale in held}


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("optim.backbone_lr=0.0002", {"conv1": 0.1, "conv2": 0.1, "fc1": 0.1, "fc2": 0.1, "fc3": 1.0}),
        ("optim.layer_decay=0.5", {"conv1": 0.0625, "conv2": 0.125, "fc1": 0.25, "fc2": 0.5, "fc3": 1.0}),
        ("optim.lr=0.002", dict.fromkeys(FREE[2], 1.0)),
    ],
)
def test_the_optimizer_gains_what_is_set_free_at_its_learning_rate(
    workdir: WorkDir, key: str, expected: dict[str, float]
) -> None:
    parts = workdir.build(LENET, STAGES, "train.epochs=3", key)
    for number, free in enumerate(FREE):
        stage = parts.enter(number, 3 * number)
        assert stage.number == number
        assert lr_scales(stage) == pytest.approx({name: expected[name] for name in free})
        assert (stage.frozen_sha256 is None) == (number == 2)


def test_a_later_stage_can_be_entered_at_once(workdir: WorkDir) -> None:
    one_by_one, at_once = (workdir.build(LENET, STAGES, "train.epochs=3", f"run.dir={name}") for name in "ab")
    for number in range(3):
        one_by_one.enter(number, 3 * number)
    at_once.enter(2, 6)
    shapes = [
        [[tuple(parameter.shape) for parameter in group["params"]] for group in parts.state.optimizer.param_groups]
        for parts in (one_by_one, at_once)
    ]
    assert shapes[0] == shapes[1]


def test_a_frozen_tensor_that_changes_is_found(workdir: WorkDir) -> None:
    parts = workdir.build(LENET, STAGES)
    stage = parts.enter(0)
    check_frozen(parts.job, stage)
    with torch.no_grad():
        next(parts.state.model.parameters()).add_(1e-3)
    with pytest.raises(AssertionError, match="a frozen tensor has changed"):
        check_frozen(parts.job, stage)


def test_the_learning_rate_of_a_stage_is_what_steps_it(workdir: WorkDir) -> None:
    """Plain SGD without momentum: with a backbone_lr of 0.002 / 10^6 the backbone stands still but for rounding."""
    slow = ["optim.momentum=0", "optim.backbone_lr=2e-9"]
    workdir.train(*SHORT, *slow)
    before, after = weights(workdir, 6), weights(workdir, 9)
    moves = {name: (after[name] - before[name]).abs().max().item() for name in before}
    assert max(move for name, move in moves.items() if not name.startswith("fc3")) < 1e-6
    assert moves["fc3.weight"] > 1e-6


class Killed(BaseException):
    pass


def die_at(workdir: WorkDir, step: int, *words: str) -> None:
    """Train until step `step` begins."""

    def dying(job: Any, stage: Any, batches: Any, number: int, *others: Any) -> Any:
        if number == step:
            raise Killed
        return train_step(job, stage, batches, number, *others)

    with workdir.patch.context() as patch:
        patch.setattr(loop, "train_step", dying)
        with pytest.raises(Killed):
            workdir.train(*words)


@pytest.mark.parametrize("optim", ["{name: sgd, lr: 0.01, momentum: 0.9}", "{name: adam, lr: 0.01, ema_decay: 0.9}"])
def test_a_run_cut_off_anywhere_resumes_as_if_it_were_not(workdir: WorkDir, optim: str) -> None:
    words = [*SHORT, f"optim={optim}", "checkpoint.every=2st", "optim.layer_decay=0.5"]
    workdir.train(*words, "run.dir=whole")
    for step in (4, 6, 7, 9):  # 4 and 7 are the first of their stages
        die_at(workdir, step, *words)
    workdir.train(*words)
    resumed = [record["step"] for record in events(workdir.path / "run", "resumed")]
    assert resumed == [3, 4, 6, 8], "each stage ends with a checkpoint"
    assert workdir.losses() == workdir.losses("whole")
    assert last_weights(workdir.path / "run") == last_weights(workdir.path / "whole")


def test_a_run_cut_off_after_its_last_step_is_evaluated(workdir: WorkDir) -> None:
    """The last of its stages is never reached."""
    schedule = "backbone.freeze={schedule: [{at: 0, freeze: backbone}, {at: 1, freeze: none}]}"
    words = [LENET, schedule, "train.epochs=1"]
    workdir.train(*words, "run.dir=whole")

    def die(*_: object) -> None:
        raise Killed

    with workdir.patch.context() as patch:
        patch.setattr("launcher.train.finish._evaluate_best", die)
        with pytest.raises(Killed):
            workdir.train(*words)
    workdir.train(*words)
    whole, run = (summary(workdir.path / name) for name in ("whole", "run"))
    assert run["test"] == whole["test"]
    assert run["frozen_sha256"] == whole["frozen_sha256"] is not None


def test_a_stop_between_stages_loses_no_step(workdir: WorkDir) -> None:
    """While the second stage computes its features, three steps are done and no checkpoint is due."""
    records = feature_store.FeatureStore._records

    def stopping(store: feature_store.FeatureStore, *words: Any) -> Any:
        if len(workdir.kept()) == 1:
            signal.raise_signal(signal.SIGUSR1)
        yield from records(store, *words)

    with workdir.patch.context() as patch:
        patch.setattr(feature_store.FeatureStore, "_records", stopping)
        with pytest.raises(Stopped):
            workdir.train(*SHORT, "train.evaluate_every=100")
    assert summary(workdir.path / "run")["status"] == "preempted"
    assert summary(workdir.path / "run")["steps_done"] == 3
    workdir.train(*SHORT, "train.evaluate_every=100")
    assert [record["step"] for record in events(workdir.path / "run", "resumed")] == [3]
    assert summary(workdir.path / "run")["status"] == "done"


def test_a_run_killed_in_the_second_stage_resumes(tmp_path: Path, digits: Path) -> None:
    """The real program and a real kill."""
    words = [f"data.dir={digits}", STAGES, "augment.train=[{op: resize, size: [32, 32]}]", "train.epochs=3",
             "checkpoint.every=7st", "log.every=1st", "log.wandb.mode=disabled", "optim.backbone_lr=1e-3"]  # fmt: skip
    train(DIGITS, *words, "run.dir=whole", cwd=tmp_path)
    ended = stop_after(start([DIGITS, *words, "run.dir=run"], tmp_path), tmp_path / "run", 45, signal.SIGKILL)
    assert ended.code == -signal.SIGKILL
    train(DIGITS, *words, "run.dir=run", cwd=tmp_path)
    found, whole = train_records(tmp_path / "run"), train_records(tmp_path / "whole")
    assert [found[step]["loss"] for step in range(1, 100)] == [whole[step]["loss"] for step in range(1, 100)]
    assert last_weights(tmp_path / "run") == last_weights(tmp_path / "whole")
    [resumed] = events(tmp_path / "run", "resumed")
    assert 33 < resumed["step"] < 66


def test_processes_with_other_frozen_weights_are_refused(workdir: WorkDir) -> None:
    """They would compute other features for their part of the images, and nobody would know."""
    parts = workdir.build(LENET)
    workdir.patch.setattr(Comm, "all_gather_object", lambda comm, value: [value, "other"])
    with pytest.raises(UserError, match="rank 1 has other frozen weights than rank 0"):
        parts.enter(0)


def test_waiting_is_counted_in_training_alone(workdir: WorkDir) -> None:
    """Reading the pictures to compute features is no wait of the training."""
    read = ShardReader.read

    def slowly(reader: ShardReader, i: int) -> Any:
        time.sleep(0.02)
        return read(reader, i)

    workdir.patch.setattr(ShardReader, "read", slowly)
    workdir.train(LENET, "data.workers=0")
    assert summary(workdir.path / "run")["train"]["data_wait_frac"] < 0.7
    assert summary(workdir.path / "run")["input"]["bottleneck"] in (None, "reading features")
    workdir.train(LENET, "data.workers=0", "run.dir=pictures", "strategy.feature_cache_gib=0")
    assert summary(workdir.path / "pictures")["train"]["data_wait_frac"] > 0.7
    assert summary(workdir.path / "pictures")["input"]["bottleneck"] == "read"
    assert [record["step"] for record in events(workdir.path / "pictures", "input")] == [3, 6]
