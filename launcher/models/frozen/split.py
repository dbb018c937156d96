"""A network cut in two where its frozen part ends: what comes before needs no gradient, ever.

The cut is made in the network's graph (torch.fx), at the last values that neither a trainable parameter nor anything
random has touched. Nested networks are cut inside of their blocks where need be. The split hold the modules of the
network itself, so that training, saving and hashing the network go on as if it were whole.

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

from launcher.models.frozen.freeze import set_training, training_modes
from launcher.models.timm import PREFIX, tracing_leaves
from launcher.text import one_line

RANDOM = ("dropout", "stochastic_depth", "drop_path", "rand", "bernoulli")
"""In the name of a function that is random while the module that calls it is in training mode."""

TOLERANCE = 1e-4
"""Largest difference between the cut and the whole network, relative to the largest output, for the cut to be used."""

Values = tuple[Tensor, ...]


class SplitError(Exception):
    """The network cannot be cut; the message says why."""


@dataclass(frozen=True)
class FrozenSplit:
    """The two parts of a network. `boundary`: names of the values that pass from one to the other."""

    boundary: tuple[str, ...]
    frozen: fx.GraphModule
    """images_BCHW -> values at the boundary, batch first."""
    trainable: fx.GraphModule
    """Values at the boundary -> what the network gives in training."""
    text: str
    """The first part as code: what it computes, but for its tensors."""
    _eval_trainable: fx.GraphModule

    def eval_trainable(self, model: nn.Module) -> fx.GraphModule:
        """The second part as in evaluation, with the weights of `model`: the network, or an average of it."""
        members: dict[str, Any] = {
            **dict(model.named_modules()),
            **dict(model.named_parameters()),
            **dict(model.named_buffers()),
        }
        targets = {
            str(node.target) for node in self._eval_trainable.graph.nodes if node.op in ("call_module", "get_attr")
        }
        # What is neither a module nor one of its tensors is a constant that tracing has found.
        return fx.GraphModule(
            {t: members[t] if t in members else getattr(self._eval_trainable, t) for t in targets},
            self._eval_trainable.graph,
        )


class _Tracer(fx.Tracer):
    def __init__(self, modules: tuple[type[nn.Module], ...], functions: tuple[Callable[..., object], ...]) -> None:
        super().__init__(autowrap_functions=functions)
        self._leaves = modules

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, self._leaves) or super().is_leaf_module(module, name)


def split_frozen(model: nn.Module, backbone_name: str, examples: list[Tensor]) -> FrozenSplit:
    """Split where the frozen part ends. `examples`: a batch of two images, images_BCHW, for each size there will be.

    Raise SplitError when nothing with parameters comes before the split, the network cannot be traced, or its parts
    together give anything else than the whole.
    """
    modes = training_modes(model)
    leaves = tracing_leaves() if backbone_name.startswith(PREFIX) else ((), ())
    set_training(model)
    trained = _split_graph(_trace(model, leaves), model, modes)
    model.eval()
    evaluated = _split_graph(_trace(model, leaves), model, modes)
    if _text(trained.frozen) != _text(evaluated.frozen):
        raise SplitError("its frozen part differs between training and evaluation")
    split = FrozenSplit(
        trained.boundary,
        fx.GraphModule(model, evaluated.frozen),
        fx.GraphModule(model, trained.trainable),
        _text(evaluated.frozen),
        fx.GraphModule(model, evaluated.trainable),
    )
    split.frozen.eval()
    for example_BCHW in examples:
        _check_same(model, split, example_BCHW)
    return split


def _trace(model: nn.Module, leaves: tuple[tuple[type[nn.Module], ...], tuple[Callable[..., object], ...]]) -> fx.Graph:
    _, *options = inspect.signature(model.forward).parameters.values()
    try:
        graph = _Tracer(*leaves).trace(model, {option.name: option.default for option in options})
    except Exception as error:  # whatever a network's own code raises on a symbol
        raise SplitError(f"torch.fx cannot trace it: {one_line(error)[:200]}") from None
    _follow_changes(graph)
    return graph


def _follow_changes(graph: fx.Graph) -> None:
    """Have what comes after a change in place take the changed value, which else seems unused and would be left out."""
    positions = {node: i for i, node in enumerate(graph.nodes)}
    for node, position in positions.items():
        if _is_in_place(node) and node.args and isinstance(node.args[0], fx.Node):
            later = {user for user in node.args[0].users if positions[user] > position}
            node.args[0].replace_all_uses_with(node, later.__contains__)


def _is_in_place(node: fx.Node) -> bool:
    if node.op == "call_method":
        return str(node.target).endswith("_") and not str(node.target).endswith("__")
    is_operator = getattr(node.target, "__module__", None) == "_operator"  # or_ and and_ are named after keywords
    named_so = str(getattr(node.target, "__name__", "")).endswith("_") and not is_operator
    return node.op == "call_function" and (named_so or node.kwargs.get("inplace") is True)


def _text(graph: fx.Graph) -> str:
    return plain_name(graph.python_code("self").src)


def plain_name(text: str) -> str:
    """Without the numbers of constants, which are new at each tracing."""
    return re.sub(r"_tensor_constant\d+", "_tensor_constant", text)


@dataclass(frozen=True)
class _Graphs:
    boundary: tuple[str, ...]
    frozen: fx.Graph
    trainable: fx.Graph


def _split_graph(graph: fx.Graph, model: nn.Module, modes: dict[str, bool]) -> _Graphs:
    used = _ancestors([node for node in graph.nodes if node.op == "output"])  # leaves out assertions about shapes
    nodes = [node for node in graph.nodes if node in used]
    boundary = _find_boundary(nodes, model, modes)
    before = _ancestors(boundary)
    if not any(_holds_parameters(node, model) for node in before):
        raise SplitError("nothing with weights comes before the first layer that trains")
    varying = _varying_nodes(nodes)
    frozen, trainable = fx.Graph(), fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node in before:
            known[node] = frozen.node_copy(node, known.__getitem__)
    frozen.output(tuple(known[node] for node in boundary))
    known = {node: trainable.placeholder(node.name) for node in boundary}
    for node in nodes:
        if node not in before or node not in varying:
            known[node] = trainable.node_copy(node, known.__getitem__)
    trainable.eliminate_dead_code(lambda node: node.op in ("output", "placeholder"))
    return _Graphs(tuple(node.name for node in boundary), frozen, trainable)


def _find_boundary(nodes: list[fx.Node], model: nn.Module, modes: dict[str, bool]) -> list[fx.Node]:
    """The last nodes that depend on the images and on nothing that trains."""
    touched, varying = _touched_nodes(nodes, model, modes), _varying_nodes(nodes)
    boundary = [node for node in nodes if node in varying - touched and any(user in touched for user in node.users)]
    if not boundary or boundary[0].op == "placeholder":
        raise SplitError("the first layers train")
    return _without_cheap(boundary, model)


def _without_cheap(boundary: list[fx.Node], model: nn.Module) -> list[fx.Node]:
    """The boundary without values that follow from its others alone and cost nothing, such as a pooling beside them."""
    for node in reversed(boundary):
        others = [other for other in boundary if other is not node]
        if all(source in others for source in node.all_input_nodes) and not _holds_parameters(node, model):
            return _without_cheap(others, model)
    return boundary


def _touched_nodes(nodes: list[fx.Node], model: nn.Module, modes: dict[str, bool]) -> set[fx.Node]:
    """Nodes that something trainable or random, or a node touched by it, goes into; and the output."""
    parameters = dict(model.named_parameters())
    touched: set[fx.Node] = set()
    for node in nodes:
        is_source = node.op == "output"
        if node.op == "call_module":
            is_source = modes[str(node.target)]
        elif node.op == "get_attr":
            is_source = node.target in parameters and parameters[str(node.target)].requires_grad
        elif node.op in ("call_function", "call_method"):
            name = str(getattr(node.target, "__name__", node.target))
            owner = [name for name, _ in node.meta.get("nn_module_stack", {}).values()][-1:]
            is_source = any(word in name for word in RANDOM) and modes["".join(owner)]
        if is_source or any(source in touched for source in node.all_input_nodes):
            touched.add(node)
    return touched


def _varying_nodes(nodes: list[fx.Node]) -> set[fx.Node]:
    """Nodes that depend on the images; others, such as a position embedding, are made again on either side."""
    varying: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    return varying


def _ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    found, waiting = set(nodes), list(nodes)
    while waiting:
        for source in waiting.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


def _holds_parameters(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "get_attr":
        return True
    return node.op == "call_module" and next(model.get_submodule(str(node.target)).parameters(), None) is not None


@torch.no_grad()
def _check_same(model: nn.Module, split: FrozenSplit, example_BCHW: Tensor) -> None:
    """In evaluation, and in training with the same random numbers. Leaves the model in evaluation mode."""
    try:
        whole = model(example_BCHW)
        values = split.frozen(example_BCHW)
        if not all(
            isinstance(value, Tensor) and value.is_floating_point() and len(value) == len(example_BCHW)
            for value in values
        ):
            raise SplitError("values without a batch dimension pass the boundary")
        joined = split.eval_trainable(model).eval()(*(value.clone() for value in values))
        set_training(model)
        whole_trained = _train_once(model, model, (example_BCHW,))
        joined_trained = _train_once(model, split.trainable, values)
        is_same = _is_near(joined, whole), _is_near(joined_trained, whole_trained)
    except (RuntimeError, TypeError, ValueError) as error:
        raise SplitError(f"its split do not run: {one_line(error)[:200]}") from None
    finally:
        model.eval()
    if not is_same[0]:
        raise SplitError("its split give something else than the whole")
    if not is_same[1]:
        raise SplitError("in training its split give something else than the whole")


def _train_once(model: nn.Module, forward: Callable[..., Tensor], values: Values) -> Tensor:
    """Always with the same random numbers; the statistics of `model` are put back."""
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
