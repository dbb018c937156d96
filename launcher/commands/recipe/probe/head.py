"""Features as tables of numbers, and the regression on them as the network's head.

B batch, N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from launcher.commands.recipe.probe.regression import Array, Labels, Layer
from launcher.data.feed import Feed
from launcher.data.order import portion_ids
from launcher.models.frozen.split import FrozenSplit

READ_BATCH = 1024
"""Images whose features are read at a time."""


@dataclass(frozen=True)
class HeadInput:
    """From the values at the boundary to what enters the head: no more than dropout, at rest, and pooling."""

    module: fx.GraphModule
    head: nn.Linear | nn.Conv2d

    @torch.no_grad()
    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """What enters the head, as float32."""
        value: Tensor = self.module(*(value.float() for value in inputs))
        return value

    def features(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """features_BD: averaged over pixels before a convolution, over all that lies between before a linear layer."""
        value = self(inputs)
        if value.ndim == 2:
            return value
        kept = 1 if isinstance(self.head, nn.Conv2d) else value.ndim - 1
        return value.mean(dim=[dim for dim in range(1, value.ndim) if dim != kept])


def find_head_input(split: FrozenSplit, model: nn.Module, head_name: str) -> HeadInput | None:
    """None when the network's graph has no such layer, or uses it more than once."""
    trainable, head = split.eval_trainable(model).eval(), model.get_submodule(head_name)
    nodes = [node for node in trainable.graph.nodes if node.op == "call_module" and node.target == head_name]
    if len(nodes) != 1 or not isinstance(head, nn.Linear | nn.Conv2d):
        return None
    graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in trainable.graph.nodes:
        if node is nodes[0]:
            break
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(known[nodes[0].all_input_nodes[0]])
    return HeadInput(fx.GraphModule(trainable, graph), head)


def read_features(feed: Feed, num_images: int, head_input: HeadInput) -> tuple[Array, Labels]:
    """features_ND and labels_N of a split, in the order of ids, without the images that are left out."""
    features, labels = [], []
    for inputs, labels_B, counts_B in _batches(feed, num_images):
        features.append(head_input.features(inputs)[counts_B].double().cpu().numpy())
        labels.append(labels_B[counts_B].cpu().numpy())
    return np.concatenate(features), np.concatenate(labels)


def _batches(feed: Feed, num_images: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
    """Values at the boundary, labels_B, and which of them count: no padding, nothing that is left out."""
    for examples in feed.batches((0, ids_B) for ids_B in portion_ids(num_images, 1, READ_BATCH, 0)):
        yield examples.inputs, examples.labels_B, examples.weights_B > 0


@torch.no_grad()
def put_in_head(head_input: HeadInput, layer: Layer, feeds: Mapping[str, tuple[Feed, int]]) -> None:
    """Make `layer` the network's head. `feeds`: of each split, with its number of images."""
    head = head_input.head
    assert head.bias is not None
    head.weight.copy_(torch.from_numpy(layer.weight_KD).view(head.weight.shape))
    head.bias.copy_(torch.from_numpy(layer.bias_K))
    if isinstance(head, nn.Conv2d):
        # SqueezeNet cuts off below zero what it then averages. One number more for every class changes no probability,
        # and with twice what the lowest pixel here needs nothing is cut off.
        head.bias -= 2 * min(0.0, *(_lowest(head_input, feed, num_images) for feed, num_images in feeds.values()))


def _lowest(head_input: HeadInput, feed: Feed, num_images: int) -> float:
    """The smallest output of the head at any pixel of a split."""
    return min(float(head_input.head(head_input(inputs)).min()) for inputs, _, _ in _batches(feed, num_images))


@torch.no_grad()
def largest_difference(trainable: nn.Module, head_input: HeadInput, layer: Layer, feed: Feed, num_images: int) -> float:
    """Between a probability that the network gives and the regression's, over the first images of a split."""
    inputs, _, _ = next(_batches(feed, min(num_images, READ_BATCH)))
    expected_BK = torch.from_numpy(layer.scores(head_input.features(inputs).double().cpu().numpy()))
    found_BK: Tensor = trainable(*(value.float() for value in inputs)).double().cpu()
    return float((found_BK.softmax(dim=1) - expected_BK.softmax(dim=1)).abs().max())
