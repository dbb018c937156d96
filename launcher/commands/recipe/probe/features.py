"""Features as tables of numbers: the input of the network's head, from the feature cache or computed by all ranks; and
the regression on them as that head.

B batch, N images, D features, K classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, fx, nn

from launcher.checkpoint.state import TrainState
from launcher.commands.recipe.probe.regression import Array, Labels, Layer
from launcher.data.features.format import Layout
from launcher.data.feed import Feed
from launcher.data.ids import portion_ids
from launcher.errors import UserError
from launcher.models.frozen.freeze import frozen_sha256
from launcher.models.frozen.split import FrozenSplit, SplitError
from launcher.models.zoo import Network
from launcher.run.run_log import RunLog
from launcher.train.frozen import (
    build_engine,
    build_request,
    build_store,
    compile_if_worth,
    feature_values,
    split_network,
    with_engine,
)
from launcher.train.inputs import Inputs
from launcher.train.job import Job

READ_BATCH = 1024
"""Images read at a time."""


@dataclass(frozen=True)
class HeadInput:
    """From the values at the boundary of the frozen part to the input of the head: pooling, dropout in eval mode."""

    module: fx.GraphModule
    head: nn.Linear | nn.Conv2d
    trainable: fx.GraphModule
    """From the same values to the output of the network, in eval mode."""

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


@dataclass(frozen=True)
class SplitFeatures:
    """The features of one split, in the order of ids."""

    feed: Feed
    num_images: int

    def batches(self) -> Iterator[tuple[tuple[Tensor, ...], Tensor, Tensor]]:
        """Values at the boundary, labels_B, and which images count: no padding, no skipped ones."""
        for examples in self.feed.batches((0, ids_B) for ids_B in portion_ids(self.num_images, 1, READ_BATCH, 0)):
            yield examples.inputs, examples.labels_B, examples.weights_B > 0

    def read(self, head_input: HeadInput) -> tuple[Array, Labels]:
        """features_ND and labels_N of the images that count."""
        features, labels = [], []
        for inputs, labels_B, counts_B in self.batches():
            features.append(head_input.features(inputs)[counts_B].double().cpu().numpy())
            labels.append(labels_B[counts_B].cpu().numpy())
        return np.concatenate(features), np.concatenate(labels)


@dataclass(frozen=True)
class Extracted:
    """The features of every split, as this rank reads them."""

    head_input: HeadInput
    splits: dict[str, SplitFeatures]
    num_computed: dict[str, int]
    """Images of each split that were not in the cache."""
    seconds: float


def extract(job: Job, state: TrainState, inputs: Inputs, log: RunLog) -> Extracted:
    """Called by every rank. Raise UserError when the network has no such features, or there is no room for them."""
    start_s = time.perf_counter()
    split, head_input = _split_at_head(job, state)
    job.strategy.comm.check_same("frozen weights", [str(frozen_sha256(state.model))])
    log.say(f"{job.recipe.run.name}: {job.recipe.backbone.name}, features are the input of {state.network.head_name}")
    engine = build_engine(job, split)
    values = feature_values(job, engine)
    num_bytes = sum(Layout(each, job.plan.num_images(name), 1).num_bytes for name, each in values.items())
    gib, limit_gib = num_bytes / 2**30, job.recipe.strategy.feature_cache_gib
    if gib > limit_gib:
        raise UserError(
            f"strategy.feature_cache_gib: the features take {gib:.2g} GiB, {limit_gib:g} are allowed; "
            f"set it to {math.ceil(gib * 100) / 100:g}"
        )
    store = build_store(job, split, log.say)
    requests = [build_request(job, name, feed, values[name]) for name, feed in with_engine(inputs, engine).items()]
    missing = {request.split: store.count_missing(request) for request in requests}
    compile_if_worth(job, engine, sum(missing.values()), log.say)
    splits = {each.split: SplitFeatures(store.open(each), job.plan.num_images(each.split)) for each in requests}
    return Extracted(head_input, splits, missing, time.perf_counter() - start_s)


def _split_at_head(job: Job, state: TrainState) -> tuple[FrozenSplit, HeadInput]:
    """Raise UserError when the input of the head cannot be split off."""
    network, refusal = state.network, f"backbone.name: {job.recipe.backbone.name} cannot be probed"
    if network.twin_names:
        heads = ", ".join((*network.twin_names, network.head_name))
        raise UserError(f"{refusal}: it averages several classifiers ({heads}); choose another backbone")
    try:
        split = split_network(job, state)
    except SplitError as error:
        raise UserError(f"{refusal}: {error}; choose another backbone") from None
    head_input = _find_head_input(split, network)
    if head_input is None:
        raise UserError(f"{refusal}: its classifier cannot be separated from the rest; choose another backbone")
    return split, head_input


def _find_head_input(split: FrozenSplit, network: Network) -> HeadInput | None:
    """None when the network's graph has no such layer, or uses it more than once."""
    trainable, head = split.eval_trainable(network.model).eval(), network.head
    nodes = [node for node in trainable.graph.nodes if node.op == "call_module" and node.target == network.head_name]
    if len(nodes) != 1 or not isinstance(head, nn.Linear | nn.Conv2d):
        return None
    graph, known = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in trainable.graph.nodes:
        if node is nodes[0]:
            break
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(known[nodes[0].all_input_nodes[0]])
    return HeadInput(fx.GraphModule(trainable, graph), head, trainable)


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
        outputs = (head(head_input(inputs)) for split in splits for inputs, _, _ in split.batches())
        head.bias -= 2 * min(0.0, *(float(each.min()) for each in outputs))


@torch.no_grad()
def largest_difference(head_input: HeadInput, layer: Layer, split: SplitFeatures) -> float:
    """Largest difference of a probability between network and regression, over the first READ_BATCH images."""
    inputs, _, _ = next(split.batches())
    expected_BK = torch.from_numpy(layer.scores(head_input.features(inputs).double().cpu().numpy()))
    found_BK: Tensor = head_input.trainable(*(value.float() for value in inputs)).double().cpu()
    return float((found_BK.softmax(dim=1) - expected_BK.softmax(dim=1)).abs().max())
