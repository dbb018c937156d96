"""A rank that trains a small network for some steps: python ddp_rank.py SLOW_RANK, with torchrun's variables.

Prints what the test asks for as JSON. The input of rank SLOW_RANK takes SLEEP_S a step.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings

import torch
from torch import nn

from launcher.distributed.strategy import Strategy, build_strategy
from launcher.distributed.world import read_world
from launcher.recipe.schema import Strategy as StrategySection

STEPS = 15
SLEEP_S = 0.05
SPURIOUS = "Grad strides do not match bucket view strides. This may indicate grad was not created according to"
"""Begin of what DDP warns of where a convolution's gradient comes from cuDNN."""


def build(rank: int) -> nn.Module:
    """Weights and statistics of its own on each rank."""
    torch.manual_seed(rank)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model.get_buffer("1.running_mean").fill_(rank + 1)
    return model


def train(strategy: Strategy, model: nn.Module, sleep_s: float) -> None:
    wrapped = strategy.wrap(model)
    optimizer = strategy.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=0.01))
    for _ in range(STEPS):
        time.sleep(sleep_s)
        images_BCHW = strategy.layout(torch.randn(4, 3, 8, 8))
        with strategy.sync_gradients(now=True):
            strategy.backward(wrapped(images_BCHW).square().mean())
        strategy.step(optimizer, None, model.parameters())


def main() -> None:
    world = read_world(os.environ)
    strategy = build_strategy(StrategySection(device="cpu", hang_timeout_s=None), world, 0, False)
    model = strategy.to_device(build(world.rank))
    strategy.wrap(model)
    first_mean = model.get_buffer("1.running_mean").tolist()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(strategy, model, SLEEP_S if world.rank == int(sys.argv[1]) else 0.0)
        for text in (SPURIOUS, "another"):
            warnings.warn(text, stacklevel=1)
    result = {
        "first_mean": first_mean,
        "mean": model.get_buffer("1.running_mean").tolist(),
        "weights": model.get_parameter("0.weight").flatten().tolist(),
        "compute_s": strategy.compute_timer.compute_s,
        "warnings": [str(each.message) for each in caught],
    }
    strategy.comm.broadcast_buffers(model)
    result["shared_mean"] = model.get_buffer("1.running_mean").tolist()
    strategy.comm.close()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
