from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from launcher.checkpoint.optimizer_state import load_tensors, matches, read_groups, read_tensors

Build = Callable[[nn.Module], Optimizer]

BUILDS: dict[str, Build] = {
    "sgd": lambda model: SGD(model.parameters(), 0.1, momentum=0.9),
    "adam": lambda model: Adam(model.parameters(), 0.1),
    "adamw": lambda model: AdamW(model.parameters(), 0.1),
}


def build_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def train(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        generator = torch.Generator().manual_seed(step)
        model(torch.randn(2, 3, 4, 4, generator=generator)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def two_groups(model: nn.Sequential) -> list[dict[str, list[nn.Parameter]]]:
    return [{"params": list(model[0].parameters())}, {"params": list(model[3].parameters())}]


def test_groups_name_their_parameters_and_options() -> None:
    model = build_model()
    groups = read_groups(model, SGD(two_groups(model), 0.1, momentum=0.9))
    assert [group["names"] for group in groups] == [["0.weight", "0.bias"], ["3.weight", "3.bias"]]
    assert {"lr", "momentum", "weight_decay"} <= set(groups[0]["options"])
    assert "params" not in groups[0]["options"]


def test_tensors_are_named_by_parameter_and_key() -> None:
    model = build_model()
    optimizer = Adam(two_groups(model), 0.1)
    assert read_tensors(model, optimizer) == {}
    train(model, optimizer, 1)
    names = ["0.weight", "0.bias", "3.weight", "3.bias"]
    tensors = read_tensors(model, optimizer)
    assert set(tensors) == {f"{name}/{key}" for name in names for key in ("step", "exp_avg", "exp_avg_sq")}
    assert tensors["0.weight/exp_avg"] is optimizer.state[next(model.parameters())]["exp_avg"]


def test_momentum_that_is_none_is_left_out() -> None:
    model = build_model()
    optimizer = SGD(model.parameters(), 0.1)
    train(model, optimizer, 1)
    assert read_tensors(model, optimizer) == {}


@pytest.mark.parametrize("name", BUILDS)
def test_a_loaded_optimizer_steps_as_the_one_that_was_read(name: str) -> None:
    model = build_model()
    optimizer = BUILDS[name](model)
    train(model, optimizer, 2)
    other = copy.deepcopy(model)
    other_optimizer = BUILDS[name](other)
    assert matches(read_groups(model, optimizer), other, other_optimizer)
    tensors = {path: tensor.clone() for path, tensor in read_tensors(model, optimizer).items()}
    load_tensors(tensors, other, other_optimizer)
    for each, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        train(each, its_optimizer, 3)
    for path, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[path]), path


def test_strides_of_a_loaded_tensor_are_those_of_its_parameter() -> None:
    model = build_model().to(memory_format=torch.channels_last)
    optimizer = SGD(model.parameters(), 0.1, momentum=0.9)
    path, weight = "0.weight/momentum_buffer", next(model.parameters())
    load_tensors({path: torch.randn(4, 3, 3, 3)}, model, optimizer)
    assert read_tensors(model, optimizer)[path].stride() == weight.stride()


def test_another_kind_of_optimizer_does_not_match() -> None:
    model = build_model()
    groups = read_groups(model, BUILDS["sgd"](model))
    assert matches(groups, model, BUILDS["sgd"](model))
    assert not matches(groups, model, BUILDS["adam"](model))


def test_another_order_of_parameters_does_not_match() -> None:
    model = build_model()
    groups = read_groups(model, SGD(model.parameters(), 0.1))
    assert not matches(groups, model, SGD(list(model.parameters())[::-1], 0.1))


def test_more_groups_at_the_end_match_and_fewer_do_not() -> None:
    model = build_model()
    one, two = SGD(two_groups(model)[:1], 0.1), SGD(two_groups(model), 0.1)
    assert matches(read_groups(model, one), model, two)
    assert not matches(read_groups(model, two), model, one)
