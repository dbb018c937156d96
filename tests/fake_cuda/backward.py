"""A backward pass without autograd's engine, which asks the CUDA driver for streams and so needs a GPU.

The nodes of the graph are autograd's own, each called once with the sum of its gradients, on this thread.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

Node = Any
"""torch.autograd.graph.Node: `next_functions` and `_input_metadata`, and called with gradients, it gives those after
it. The leaves, AccumulateGrad, add to `parameter.grad`."""


def walk_backward(root: Tensor) -> None:
    """As `root.backward()`, of a root of one number. Raise AssertionError where a gradient is on another device."""
    start: Node = root.grad_fn
    waiting = _count_arrivals(start)
    gradients: dict[Node, dict[int, Tensor]] = {start: {0: torch.ones_like(root)}}
    ready = [start]
    while ready:
        node = ready.pop()
        given = gradients.pop(node, {})
        results = _call(node, given) if given else ()
        for i, (after, number) in enumerate(node.next_functions):
            if after is None:
                continue
            result = results[i] if i < len(results) else None
            if result is not None:
                _add(gradients.setdefault(after, {}), number, result)
            waiting[after] -= 1
            if not waiting[after]:
                ready.append(after)


def _count_arrivals(start: Node) -> Counter[Node]:
    """How often each node is an edge's end."""
    arrivals: Counter[Node] = Counter()
    seen, todo = {start}, [start]
    while todo:
        for after, _ in todo.pop().next_functions:
            if after is None:
                continue
            arrivals[after] += 1
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return arrivals


@torch.no_grad()
def _call(node: Node, given: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    """What the node gives. As the engine does, each gradient gets the shape and type of what it is the gradient of."""
    arguments: list[Tensor | None] = []
    for number, metadata in enumerate(node._input_metadata):
        gradient = given.get(number)
        if gradient is not None:
            assert gradient.device == metadata.device, f"{node.name()}: {gradient.device}, not {metadata.device}"
            gradient = gradient.sum_to_size(tuple(metadata.shape)).to(metadata.dtype)
        arguments.append(gradient)
    found = node(*arguments)
    return found if isinstance(found, tuple) else (found,)


@torch.no_grad()
def _add(gradients: dict[int, Tensor], number: int, gradient: Tensor) -> None:
    gradients[number] = gradients[number] + gradient if number in gradients else gradient
