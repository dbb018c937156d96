"""The boundary of the frozen part in a network's graph (torch.fx).

It is made of the last values that depend on the images, and that nothing trainable and nothing random has touched.
"""

from __future__ import annotations

from torch import fx, nn

RANDOM = ("dropout", "stochastic_depth", "drop_path", "rand", "bernoulli")
"""Parts of the names of functions that are random while the module that calls them is in training mode."""


def find_boundary(nodes: list[fx.Node], model: nn.Module, modes: dict[str, bool]) -> list[fx.Node]:
    """[] when the first layers train. `modes`: training mode of each module."""
    touched, varying = _touched_nodes(nodes, model, modes), varying_nodes(nodes)
    boundary = [node for node in nodes if node in varying - touched and any(user in touched for user in node.users)]
    if not boundary or boundary[0].op == "placeholder":
        return []
    return _without_cheap(boundary, model)


def _without_cheap(boundary: list[fx.Node], model: nn.Module) -> list[fx.Node]:
    """The boundary less the values that follow from others of it without weights, such as a pooling of one of them."""
    for node in reversed(boundary):
        others = [other for other in boundary if other is not node]
        if all(source in others for source in node.all_input_nodes) and not holds_parameters(node, model):
            return _without_cheap(others, model)
    return boundary


def _touched_nodes(nodes: list[fx.Node], model: nn.Module, modes: dict[str, bool]) -> set[fx.Node]:
    """Nodes that train or are random, all that depend on them, and the output."""
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


def varying_nodes(nodes: list[fx.Node]) -> set[fx.Node]:
    """Nodes that depend on the images; others, such as a position embedding, are computed in both parts."""
    varying: set[fx.Node] = set()
    for node in nodes:
        if node.op == "placeholder" or any(source in varying for source in node.all_input_nodes):
            varying.add(node)
    return varying


def ancestors(nodes: list[fx.Node]) -> set[fx.Node]:
    """The nodes, and all that they depend on."""
    found, pending = set(nodes), list(nodes)
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in found:
                found.add(source)
                pending.append(source)
    return found


def holds_parameters(node: fx.Node, model: nn.Module) -> bool:
    if node.op == "get_attr":
        return True
    return node.op == "call_module" and next(model.get_submodule(str(node.target)).parameters(), None) is not None
