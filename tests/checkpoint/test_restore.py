from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from launcher.checkpoint import atomic
from launcher.checkpoint.restore import load_weights, read_progress
from launcher.checkpoint.state import Progress, TrainState, step_name
from launcher.distributed.strategy import Strategy
from launcher.distributed.world import World
from launcher.errors import CheckpointError, RunError
from launcher.models.zoo import Network
from launcher.recipe.fields import with_values
from launcher.recipe.optim import Optim
from tests.harness.small_run import (
    ADAM,
    FILES,
    SGD,
    SPEC,
    SmallRun,
    alone,
    assert_equal,
    best_at,
    flip_a_bit,
    restore,
    save,
    save_two,
    silent,
)


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return alone()


@pytest.fixture
def two(tmp_path: Path, strategy: Strategy) -> Path:
    return save_two(tmp_path, strategy)


@pytest.mark.parametrize("optim", [SGD, ADAM])
def test_a_restored_run_continues_bit_for_bit(tmp_path: Path, strategy: Strategy, optim: Optim) -> None:
    run = SmallRun(strategy, optim)
    run.train(5)
    progress = Progress(5, best_at(5), 2, {"accuracy": 0.1, "loss": 1 / 3})
    save(tmp_path, run.state, progress, keep=2)
    before, expected = run.everything(), run.train(3)
    torch.manual_seed(99)
    other = SmallRun(strategy, optim)
    other.train(1)
    assert restore(tmp_path, other.state, silent) == progress
    assert_equal(other.everything(), before)
    assert other.state.ema is not None
    assert other.state.ema.n_averaged == 5
    assert all(torch.equal(a, b) for a, b in zip(other.train(3), expected, strict=True))
    assert_equal(other.everything(), run.everything())


def test_an_empty_folder_starts_at_step_0(tmp_path: Path, strategy: Strategy) -> None:
    run = SmallRun(strategy)
    before = run.everything()
    assert restore(tmp_path / "checkpoints", run.state, silent) == Progress()
    assert_equal(run.everything(), before)


def test_weights_have_plain_names_and_safetensors_alone_reads_them(tmp_path: Path, strategy: Strategy) -> None:
    run = SmallRun(strategy)
    assert not isinstance(run.state.model, DistributedDataParallel)
    save(tmp_path, run.state, Progress(1), keep=1)
    for name, model in (("model", run.state.model), ("ema", SmallRun(strategy).state.model)):
        weights = load_file(tmp_path / step_name(1) / f"{name}.safetensors")
        assert set(weights) == set(model.state_dict())
    assert sorted(path.name for path in (tmp_path / step_name(1)).iterdir()) == sorted([*FILES, "hashes.json"])


def test_channels_last_weights_are_saved_row_by_row(tmp_path: Path, strategy: Strategy) -> None:
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    state = TrainState(Network(model, ""), None, optimizer, strategy, 0, "abc", "data 1", SPEC)
    save(tmp_path, state, Progress(1), keep=1)
    assert torch.equal(load_file(tmp_path / step_name(1) / "model.safetensors")["weight"], model.weight)


def test_a_checkpoint_of_other_data_is_refused(two: Path, strategy: Strategy) -> None:
    state = replace(SmallRun(strategy).state, data_sha256="data 2")
    with pytest.raises(RunError, match=r"step-00000020: the shards have changed .*--fresh"):
        restore(two, state, silent)


def test_a_checkpoint_of_another_network_is_refused(two: Path, strategy: Strategy) -> None:
    with pytest.raises(RunError, match=r"weights are not of the recipe's network.*--fresh$"):
        restore(two, SmallRun(strategy, width=5).state, silent)


def test_a_checkpoint_of_an_optimizer_with_another_order_is_refused(two: Path, strategy: Strategy) -> None:
    """It would step one layer with the momentum of another."""
    state = SmallRun(strategy).state
    groups = state.optimizer.param_groups
    for group in groups:
        group["params"] = list(reversed(group["params"]))
    with pytest.raises(RunError, match=r"its optimizer is not the recipe's, or trained other weights"):
        restore(two, state, silent)


def test_a_checkpoint_of_another_optimizer_is_refused(two: Path, strategy: Strategy) -> None:
    with pytest.raises(RunError, match=r"its optimizer is not the recipe's"):
        restore(two, SmallRun(strategy, ADAM).state, silent)


def test_momentum_and_decay_are_the_recipes(two: Path, strategy: Strategy) -> None:
    changed = with_values(SGD, {"momentum": 0.5, "weight_decay": 0.3, "lr": 0.7})
    run = SmallRun(strategy, changed)
    restore(two, run.state, silent)
    groups = run.state.optimizer.state_dict()["param_groups"]
    assert [(group["momentum"], group["weight_decay"], group["lr"]) for group in groups] == [
        (0.5, 0.3, 0.7),
        (0.5, 0.0, 0.7),
    ]
    assert all(len(values) for values in run.state.optimizer.state_dict()["state"].values())


def test_averaging_that_begins_after_a_resume_starts_from_the_weights(tmp_path: Path, strategy: Strategy) -> None:
    plain = SmallRun(strategy, ema=False)
    plain.train(2)
    save(tmp_path, plain.state, Progress(2, best_at(2)), keep=1)
    run = SmallRun(strategy)
    restore(tmp_path, run.state, silent)
    assert run.state.ema is not None
    for model in (run.state.ema.module, run.state.model):
        assert torch.equal(model.state_dict()["0.weight"], plain.state.model.state_dict()["0.weight"])
    load_weights(tmp_path / "best", run.state.ema.module, ema=True)


@pytest.mark.parametrize(("ema", "name"), [(True, "ema"), (False, "model")])
def test_weights_to_evaluate_are_the_averaged_ones_when_kept(
    tmp_path: Path, strategy: Strategy, ema: bool, name: str
) -> None:
    run = SmallRun(strategy)
    run.train(3)
    save(tmp_path, run.state, Progress(3, best_at(3)), keep=1)
    model = SmallRun(strategy).state.model
    load_weights(tmp_path / "best", model, ema)
    expected = load_file(tmp_path / "best" / f"{name}.safetensors")
    assert all(torch.equal(tensor, expected[key]) for key, tensor in model.state_dict().items())
    flip_a_bit(tmp_path / "best" / f"{name}.safetensors")
    with pytest.raises(CheckpointError, match=f"{name}.safetensors: damaged"):
        load_weights(tmp_path / "best", model, ema)


def test_another_world_size_seeds_the_generators_anew(two: Path, strategy: Strategy) -> None:
    rewrite_state(two / step_name(20), world_size=2)
    restore(two, SmallRun(strategy).state, silent)
    first = torch.rand(4)
    restore(two, SmallRun(strategy).state, silent)
    assert torch.equal(torch.rand(4), first)
    rewrite_state(two / step_name(20), world_size=1)
    restore(two, SmallRun(strategy).state, silent)
    assert not torch.equal(torch.rand(4), first)


def test_each_rank_gets_its_own_generator_back(
    tmp_path: Path, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = [{"cpu": torch.Generator().manual_seed(rank).get_state()} for rank in range(12)]
    with monkeypatch.context() as patch:
        patch.setattr(strategy.comm, "all_gather_object", lambda _: states)
        save(tmp_path, SmallRun(strategy).state, Progress(1), keep=1)
    for rank in (0, 1, 11):
        with monkeypatch.context() as patch:
            patch.setattr(strategy, "world", World(rank, 12))
            restore(tmp_path, SmallRun(strategy).state, silent)
        assert torch.equal(torch.get_rng_state(), states[rank]["cpu"])


def rewrite_state(path: Path, but: str = "", **values: Any) -> None:
    """Change the checkpoint's state, without the key `but`, and the hash with it."""
    state = json.loads((path / "state.json").read_text()) | values
    state.pop(but, None)
    (path / "state.json").write_text(json.dumps(state))
    rehash(path, "state.json")


def rehash(path: Path, name: str) -> None:
    hashes = json.loads((path / "hashes.json").read_text())
    hashes[name] = atomic._sha256(path / name)
    (path / "hashes.json").write_text(json.dumps(hashes))


class Payload:
    """Pickled, it makes a folder when it is loaded."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".safetensors")])
def test_code_in_a_checkpoint_is_not_executed(two: Path, strategy: Strategy, tmp_path: Path, name: str) -> None:
    path, target = two / step_name(20), tmp_path / "executed"
    torch.save({"optimizer": Payload(str(target)), "scaler": None}, path / name)
    rehash(path, name)
    with pytest.raises(RunError, match="its hash is right, but it is no safetensors file"):
        restore(two, SmallRun(strategy).state, silent)
    assert not target.exists()
    torch.load((path / name).rename(path / "pickled.pt"), weights_only=False)
    assert target.exists()  # it would have been


def rename_optimizer(path: Path) -> None:
    (path / "optimizer.safetensors").rename(path / "optimizer.pt")
    hashes = json.loads((path / "hashes.json").read_text())
    hashes["optimizer.pt"] = hashes.pop("optimizer.safetensors")
    (path / "hashes.json").write_text(json.dumps(hashes))


def write_optimizer(path: Path, metadata: dict[str, str] | None) -> None:
    save_file({}, path / "optimizer.safetensors", metadata)
    rehash(path, "optimizer.safetensors")


OTHER_VERSIONS: dict[str, Callable[[Path], None]] = {
    "a progress with a key too few": lambda path: rewrite_state(path, but="validated_step"),
    "a best with another key": lambda path: rewrite_state(path, best={"step": 10, "top1_frac": 0.1}),
    "no hash of the data": lambda path: rewrite_state(path, but="data_sha256"),
    "no number of ranks": lambda path: rewrite_state(path, but="world_size"),
    "an optimizer in another file": rename_optimizer,
    "an optimizer without metadata": lambda path: write_optimizer(path, None),
    "an optimizer with other metadata": lambda path: write_optimizer(path, {"optimizer": "{}"}),
}


@pytest.mark.parametrize("write", OTHER_VERSIONS.values(), ids=OTHER_VERSIONS)
def test_a_checkpoint_of_another_version_is_refused_in_one_line(
    two: Path, strategy: Strategy, write: Callable[[Path], None]
) -> None:
    path = two / step_name(20)
    write(path)
    with pytest.raises(RunError) as error:
        restore(two, SmallRun(strategy).state, silent)
    assert str(error.value) == f"{path}: another version wrote this checkpoint; start anew with --fresh"


def test_progress_without_a_checkpoint_is_that_of_step_0(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "last") == Progress()


def test_optimizer_state_comes_back_with_the_strides_of_its_weights(tmp_path: Path, strategy: Strategy) -> None:
    def build() -> TrainState:
        model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters())
        return TrainState(Network(model, ""), None, optimizer, strategy, 0, "abc", "data 1", SPEC)

    state, other = build(), build()
    state.model(torch.randn(1, 3, 5, 5)).sum().backward()
    state.optimizer.step()
    save(tmp_path, state, Progress(1), keep=1)
    restore(tmp_path, other, silent)
    [found, expected] = [each.optimizer.state_dict()["state"][0]["exp_avg"] for each in (other, state)]
    assert torch.equal(found, expected)
    assert found.stride() == expected.stride() == next(iter(state.model.parameters())).stride()
