from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.distributed.scaler import copy_scaler


def train(scaler: GradScaler, losses: list[float]) -> None:
    """A step for each loss; an infinite one is an overflow."""
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for loss in losses:
        scaler.scale(model(torch.ones(1, 1)).sum() * loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()


class NoReading(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raises where a value is read back from a tensor, which on a GPU waits for it."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert "_local_scalar_dense" not in str(function), "reads a value"
        return function(*args, **(kwargs or {}))


def test_the_state_is_that_of_the_moment_of_the_copy() -> None:
    scaler = GradScaler("cpu", init_scale=16.0, growth_interval=3)
    train(scaler, [1.0, float("inf"), 1.0])
    expected = scaler.state_dict()
    read = copy_scaler(scaler)
    train(scaler, [1.0] * 4)
    assert read() == expected
    assert scaler.state_dict() != expected
    assert (expected["scale"], expected["_growth_tracker"]) == (8.0, 1)


def test_a_scaler_that_has_not_scaled_yet_has_its_first_scale() -> None:
    scaler = GradScaler("cpu", init_scale=16.0)
    assert copy_scaler(scaler)() == scaler.state_dict()


@pytest.mark.parametrize(("read", "waits"), [(copy_scaler, False), (GradScaler.state_dict, True)])
def test_copying_reads_no_value(read: Callable[[GradScaler], object], waits: bool) -> None:
    scaler = GradScaler("cpu")
    train(scaler, [1.0])
    with NoReading():  # type: ignore[no-untyped-call]
        if waits:
            with pytest.raises(AssertionError, match="reads a value"):
                read(scaler)
        else:
            read(scaler)
