"""A tiny training and its checkpoints, for the tests of what is saved and of how."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.checkpoint.restore import find_start, restore_optimizer, restore_weights
from launcher.checkpoint.snapshot import HostMemory, take_snapshot, write_snapshot
from launcher.checkpoint.state import Best, Progress, TrainState
from launcher.distributed.strategy import Strategy, build_strategy, get_rng_state
from launcher.distributed.world import World
from launcher.models.optim.build import build_groups, build_optimizer
from launcher.models.optim.ema import MovingAverage
from launcher.models.zoo import Network
from launcher.recipe.optim import Adam, Optim, Sgd
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Strategy as StrategySection

SGD = Sgd(name="sgd", lr=0.1, momentum=0.9, weight_decay=0.01)
ADAM = Adam(name="adamw", lr=0.01)
FILES = [
    "ema.safetensors",
    "model.safetensors",
    "network.json",
    "optimizer.safetensors",
    "rng.safetensors",
    "state.json",
]
RECIPE = Path(__file__).parent.parent.parent / "recipes/lenet_digits.yaml"
SPEC = NetworkSpec(load_recipe(RECIPE).recipe, ("a", "b"), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def alone() -> Strategy:
    return build_strategy(StrategySection(device="cpu"), World(), 0, False)


class SmallRun:
    """A tiny training with everything that a checkpoint holds."""

    def __init__(self, strategy: Strategy, optim: Optim = SGD, ema: bool = True, width: int = 4) -> None:
        model = nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.Dropout(0.5), nn.Linear(width, 2))
        average = MovingAverage(model, 0.9) if ema else None
        groups = build_groups(optim, model, (), ())
        optimizer = strategy.prepare_optimizer(build_optimizer(optim, groups, "no"))
        self.wrapped = strategy.wrap(model)
        self.state = TrainState(Network(model, "3"), average, optimizer, strategy, 0, "abc", "data 1", SPEC)

    def train(self, steps: int) -> list[torch.Tensor]:
        """Losses; inputs and dropout come from torch's generator."""
        losses = []
        for _ in range(steps):
            loss = self.wrapped(torch.randn(8, 3)).square().mean()
            self.state.strategy.backward(loss)
            self.state.strategy.step(self.state.optimizer, None, self.state.model.parameters())
            if self.state.ema is not None:
                self.state.ema.update()
            losses.append(loss.detach())
        return losses

    def everything(self) -> dict[str, torch.Tensor]:
        found = {f"model.{name}": tensor for name, tensor in self.state.model.state_dict().items()}
        if self.state.ema is not None:
            found |= {f"ema.{name}": tensor for name, tensor in self.state.ema.module.state_dict().items()}
        for number, values in self.state.optimizer.state_dict()["state"].items():
            found |= {f"optimizer.{number}.{key}": torch.as_tensor(value) for key, value in values.items()}
        return {name: tensor.clone() for name, tensor in found.items()} | {"rng": torch.get_rng_state()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def save(folder: Path, state: TrainState, progress: Progress, keep: int) -> None:
    """All that a run does to save, in line."""
    rngs = state.strategy.comm.all_gather_object(get_rng_state(state.strategy.device))
    write_snapshot(folder, take_snapshot(state, progress, rngs, HostMemory()), keep)


def restore(folder: Path, state: TrainState, report: Callable[[str], None]) -> Progress:
    """All that a run does to resume."""
    start = find_start(folder, state, report)
    restore_weights(start, state)
    restore_optimizer(start, state)
    return start.progress


def best_at(step: int) -> Best:
    return Best(step, 1, "accuracy", step / 100, {"accuracy": step / 100, "per_class": {"a": {"support": 3}}})


def silent(message: str) -> None:
    pytest.fail(message)


def saved_steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def pointed(folder: Path, name: str) -> str:
    return str((folder / name).readlink())


def save_two(folder: Path, strategy: Strategy) -> Path:
    """Checkpoints at steps 10, the best, and 20."""
    run = SmallRun(strategy)
    for step in (10, 20):
        run.train(1)
        save(folder, run.state, Progress(step, best_at(10)), keep=2)
    return folder


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
