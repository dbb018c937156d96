"""A network split where its frozen part ends: that part never needs a gradient, so it runs as inference.

The split is made in the network's graph (torch.fx), inside of nested modules where need be. Both parts hold the modules
of the network itself: training, saving and hashing see one whole network.

B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from launcher.models.frozen.boundary import ancestors, find_boundary, holds_parameters, varying_nodes
from launcher.models.frozen.freeze import set_training, training_modes
from launcher.models.timm import PREFIX, Leaves, tracing_leaves
from launcher.text import one_line

TOLERANCE = 1e-4
"""Largest difference between the two parts and the whole network that is accepted, relative to the largest output."""

Values = tuple[Tensor, ...]


class SplitError(Exception):
    """The network cannot be split. The message: why."""


@dataclass(frozen=True)
class FrozenSplit:
    """The two parts of a network. `boundary`: names of the values that pass from the frozen to the trainable part."""

    boundary: tuple[str, ...]
    frozen: fx.GraphModule
    """images_BCHW -> values at the boundary, batch first."""
    trainable: fx.GraphModule
    """Values at the boundary -> output of the network in training mode."""
    text: str
    """Code of the frozen part: everything that it computes, but for its tensors."""
    _eval_trainable: fx.GraphModule

    def eval_trainable(self, model: nn.Module) -> fx.GraphModule:
        """The trainable part in evaluation mode with the weights of `model`: the network, or an average of it."""
        graph = self._eval_trainable.graph
        members = dict[str, Any]([*model.named_modules(), *model.named_parameters(), *model.named_buffers()])
        targets = {str(node.target) for node in graph.nodes if node.op in ("call_module", "get_attr")}
        # Other targets are constants that tracing has found, perhaps on the CPU. They become buffers of the part, and
        # ranks exchange those on the network's device.
        constants = {name: getattr(self._eval_trainable, name) for name in targets if name not in members}
        device = next(model.parameters()).device
        moved = {name: each.to(device) if isinstance(each, Tensor) else each for name, each in constants.items()}
        return fx.GraphModule({name: members[name] for name in targets & members.keys()} | moved, graph)


def split_frozen(model: nn.Module, backbone_name: str, examples: list[Tensor]) -> FrozenSplit:
    """Split where the frozen part ends. `examples`: a batch of two images, images_BCHW, of each size that will come.

    Raise SplitError when the network cannot be traced, nothing with parameters is in the frozen part, or the two parts
    compute something else than the whole network.
    """
    modes = training_modes(model)
    leaves = tracing_leaves() if backbone_name.startswith(PREFIX) else ((), ())
    set_training(model)
    boundary, frozen_in_training, trainable = _split_graph(_trace(model, leaves), model, modes)
    model.eval()
    _, frozen, eval_trainable = _split_graph(_trace(model, leaves), model, modes)
    text, text_in_training = (plain_name(each.python_code("self").src) for each in (frozen, frozen_in_training))
    if text != text_in_training:
        raise SplitError("its frozen part differs between training and evaluation")
    frozen_part, trainable_part, eval_part = (
        fx.GraphModule(model, each) for each in (frozen, trainable, eval_trainable)
    )
    split = FrozenSplit(boundary, frozen_part.eval(), trainable_part, text, eval_part)
    for example_BCHW in examples:
        _check_same(model, split, example_BCHW)
    return split


class _Tracer(fx.Tracer):
    def __init__(self, leaves: Leaves) -> None:
        modules, functions = leaves
        super().__init__(autowrap_functions=functions)
        self._leaves = modules

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, self._leaves) or super().is_leaf_module(module, name)


def _trace(model: nn.Module, leaves: Leaves) -> fx.Graph:
    """The graph of the model in its present mode. Raise SplitError."""
    _, *options = inspect.signature(model.forward).parameters.values()
    try:
        graph = _Tracer(leaves).trace(model, {option.name: option.default for option in options})
    except Exception as error:  # whatever a network's own code raises on a symbol
        raise SplitError(f"torch.fx cannot trace it: {one_line(error)[:200]}") from None
    _follow_changes(graph)
    return graph


def _follow_changes(graph: fx.Graph) -> None:
    """Let nodes after a change in place use the changed value: otherwise the change looks unused and would be lost."""
    positions = {node: i for i, node in enumerate(graph.nodes)}
    for node, position in positions.items():
        if _is_in_place(node) and node.args and isinstance(node.args[0], fx.Node):
            later = {user for user in node.args[0].users if positions[user] > position}
            node.args[0].replace_all_uses_with(node, later.__contains__)


def _is_in_place(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    is_operator = getattr(node.target, "__module__", None) == "_operator"  # and_, or_: their names avoid keywords
    has_suffix = str(getattr(node.target, "__name__", "")).endswith("_") and not is_operator
    return node.op == "call_function" and (has_suffix or node.kwargs.get("inplace") is True)


def plain_name(text: str) -> str:
    """Without the numbers of constants, which are new in each tracing."""
    return re.sub(r"_tensor_constant\d+", "_tensor_constant", text)


def _split_graph(
    graph: fx.Graph, model: nn.Module, modes: dict[str, bool]
) -> tuple[tuple[str, ...], fx.Graph, fx.Graph]:
    """Names of the values at the boundary, and the nodes copied into a graph of the frozen and one of the other part.

    Not by `torch.fx.passes.split_module`: that renames the modules, which `eval_trainable` finds by name, and would
    pass values that do not depend on the images, such as a position embedding, from part to part.
    """
    used = ancestors([node for node in graph.nodes if node.op == "output"])  # without assertions about shapes
    nodes = [node for node in graph.nodes if node in used]
    boundary = find_boundary(nodes, model, modes)
    if not boundary:
        raise SplitError("the first layers train")
    before = ancestors(boundary)
    if not any(holds_parameters(node, model) for node in before):
        raise SplitError("nothing with weights comes before the first layer that trains")
    varying = varying_nodes(nodes)
    frozen, trainable = fx.Graph(), fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in before:
            copies[node] = frozen.node_copy(node, copies.__getitem__)
    frozen.output(tuple(copies[node] for node in boundary))
    copies = {node: trainable.placeholder(node.name) for node in boundary}
    for node in nodes:
        if node not in before or node not in varying:
            copies[node] = trainable.node_copy(node, copies.__getitem__)
    trainable.eliminate_dead_code(lambda node: node.op in ("output", "placeholder"))
    return tuple(node.name for node in boundary), frozen, trainable


@torch.no_grad()
def _check_same(model: nn.Module, split: FrozenSplit, example_BCHW: Tensor) -> None:
    """Compare the parts with the whole: in evaluation, and in training with the same random numbers.

    Leaves the model in evaluation mode. Raise SplitError when they differ.
    """
    try:
        whole = model(example_BCHW)
        values = split.frozen(example_BCHW)
        if not all(_is_batch(value, len(example_BCHW)) for value in values):
            raise SplitError("a value at the boundary has no batch dimension")
        joined = split.eval_trainable(model).eval()(*(value.clone() for value in values))
        set_training(model)
        whole_trained = _forward_seeded(model, model, (example_BCHW,))
        joined_trained = _forward_seeded(model, split.trainable, values)
        if not _is_near(joined, whole):
            raise SplitError("its two parts compute something else than the whole")
        if not _is_near(joined_trained, whole_trained):
            raise SplitError("in training its two parts compute something else than the whole")
    except (RuntimeError, TypeError, ValueError) as error:
        raise SplitError(f"its two parts do not run: {one_line(error)[:200]}") from None
    finally:
        model.eval()


def _is_batch(value: object, num: int) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and len(value) == num


def _forward_seeded(model: nn.Module, forward: Callable[..., Tensor], values: Values) -> Tensor:
    """Call `forward` with always the same random numbers, and restore the buffers of `model`."""
    before = [buffer.clone() for buffer in model.buffers()]
    with torch.random.fork_rng([values[0].device] if values[0].is_cuda else []):
        torch.manual_seed(0)
        try:
            return forward(*values)
        finally:
            for buffer, old in zip(model.buffers(), before, strict=True):
                buffer.copy_(old)


def _is_near(joined: Tensor, whole: Tensor) -> bool:
    return bool((joined - whole).abs().max() <= TOLERANCE * whole.abs().max())
