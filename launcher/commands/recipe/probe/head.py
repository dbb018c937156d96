"""Features as tables of numbers, and the regression on them as the network's head.

B batch, N images, D features, K classes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from launcher.commands.recipe.probe.regression import Array, Labels, Layer
from launcher.data.feed import Feed
from launcher.data.ids import portion_ids
from launcher.models.frozen.split import FrozenSplit

READ_BATCH = 1024
"""Images read at a time."""


@dataclass(frozen=True)
class HeadInput:
    """From the values at the boundary of the frozen part to the input of the head: pooling, dropout in eval mode."""

    module: fx.GraphModule
    head: nn.Linear | nn.Conv2d

    @torch.no_grad()
    def __call__(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """The input of the head, as float32."""
        value: Tensor = self.module(*(value.float() for value in inputs))
        return value

    def features(self, inputs: tuple[Tensor, ...]) -> Tensor:
        """features_BD: averaged over pixels for a convolution, over all axes but the last for a linear layer."""
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


@dataclass(frozen=True)
class SplitFeatures:
    """The features of one split, in the order of ids."""

    feed: Feed
    num_images: int

    def batches(self, most: int | None = None) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
        """Values at the boundary, labels_B, and which images count: no padding, no skipped ones. `most`: images."""
        num_images = min(self.num_images, most or self.num_images)
        for examples in self.feed.batches((0, ids_B) for ids_B in portion_ids(num_images, 1, READ_BATCH, 0)):
            yield examples.inputs, examples.labels_B, examples.weights_B > 0

    def read(self, head_input: HeadInput) -> tuple[Array, Labels]:
        """features_ND and labels_N of the images that count."""
        features, labels = [], []
        for inputs, labels_B, counts_B in self.batches():
            features.append(head_input.features(inputs)[counts_B].double().cpu().numpy())
            labels.append(labels_B[counts_B].cpu().numpy())
        return np.concatenate(features), np.concatenate(labels)


@torch.no_grad()
def put_in_head(head_input: HeadInput, layer: Layer, splits: Iterable[SplitFeatures]) -> None:
    """Make `layer` the network's head."""
    head = head_input.head
    assert head.bias is not None
    head.weight.copy_(torch.from_numpy(layer.weight_KD).view(head.weight.shape))
    head.bias.copy_(torch.from_numpy(layer.bias_K))
    if isinstance(head, nn.Conv2d):
        # SqueezeNet cuts off values below zero and then averages. Adding the same to every class changes no
        # probability, and with twice what the lowest pixel here needs nothing is cut off.
        head.bias -= 2 * min(0.0, *(_lowest_output(head_input, split) for split in splits))


def _lowest_output(head_input: HeadInput, split: SplitFeatures) -> float:
    """The lowest output of the head at any pixel of a split."""
    return min(float(head_input.head(head_input(inputs)).min()) for inputs, _, _ in split.batches())


@torch.no_grad()
def largest_difference(trainable: nn.Module, head_input: HeadInput, layer: Layer, split: SplitFeatures) -> float:
    """Largest difference of a probability between network and regression, over the first images of a split."""
    inputs, _, _ = next(split.batches(most=READ_BATCH))
    expected_BK = torch.from_numpy(layer.scores(head_input.features(inputs).double().cpu().numpy()))
    found_BK: Tensor = trainable(*(value.float() for value in inputs)).double().cpu()
    return float((found_BK.softmax(dim=1) - expected_BK.softmax(dim=1)).abs().max())
