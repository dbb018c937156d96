"""Boundaries in the graphs of small networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from launcher.models.frozen.boundary import ancestors, find_boundary, holds_parameters, varying_nodes
from launcher.models.frozen.freeze import set_training, training_modes


class Net(nn.Module):
    """`forward` in several forms; `head` trains."""

    def __init__(self, compute: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.scale = nn.Parameter(torch.ones(4))
        self.compute = compute

    def forward(self, values_BC: Tensor) -> Tensor:
        outputs: Tensor = self.compute(self, values_BC)
        return outputs


def find(compute: Callable[[Net, Tensor], Any], trained: tuple[str, ...] = ("head",)) -> list[str]:
    """Names of the values at the boundary."""
    net = Net(compute)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(name.startswith(trained))
    set_training(net)
    graph = fx.symbolic_trace(net).graph
    return [node.name for node in find_boundary(list(graph.nodes), net, training_modes(net))]


def test_the_boundary_is_the_last_value_before_what_trains() -> None:
    assert find(lambda net, x: net.head(net.second(net.first(x).relu()).relu())) == ["relu_1"]


def test_each_value_that_what_trains_uses_is_at_the_boundary() -> None:
    assert find(lambda net, x: net.head(net.first(x)) + net.second(x)[:, :2]) == ["first", "getitem"]


def test_a_value_that_follows_from_others_without_weights_is_not() -> None:
    def compute(net: Net, x: Tensor) -> Any:
        values = net.first(x)
        return net.head(values) + net.head(values.relu())

    assert find(compute) == ["first"]


def test_a_layer_that_trains_first_leaves_no_boundary() -> None:
    assert find(lambda net, x: net.head(net.first(x)), trained=("first",)) == []


def test_a_parameter_that_trains_ends_the_frozen_part() -> None:
    def compute(net: Net, x: Tensor) -> Any:
        return net.second(net.first(x) * net.scale)

    assert find(compute, trained=("scale",)) == ["first"]
    assert find(compute, trained=("second",)) == ["mul"]


def test_a_random_function_ends_the_frozen_part() -> None:
    def compute(net: Net, x: Tensor) -> Any:
        return net.head(nn.functional.dropout(net.first(x), 0.5, net.training))

    assert find(compute) == ["first"]


def test_values_that_do_not_depend_on_the_images_are_not_at_the_boundary() -> None:
    def compute(net: Net, x: Tensor) -> Any:
        return net.head(net.first(x)) + net.head(net.scale.exp())

    assert find(compute) == ["first"]


@pytest.fixture
def nodes() -> dict[str, fx.Node]:
    net = Net(lambda net, x: net.head(net.first(x).relu()) + net.scale.sum())
    return {node.name: node for node in fx.symbolic_trace(net).graph.nodes}


def test_varying_nodes_depend_on_the_input(nodes: dict[str, fx.Node]) -> None:
    constant = set(nodes.values()) - varying_nodes(list(nodes.values()))
    assert {node.name for node in constant} == {"scale", "sum_1"}


def test_ancestors_are_all_that_a_node_depends_on(nodes: dict[str, fx.Node]) -> None:
    assert {node.name for node in ancestors([nodes["head"]])} == {"values_bc", "first", "relu", "head"}


def test_layers_and_tensors_of_the_model_hold_parameters(nodes: dict[str, fx.Node]) -> None:
    net = Net(lambda net, x: x)
    assert {name for name, node in nodes.items() if holds_parameters(node, net)} == {"first", "head", "scale"}
