"""The features of every split: what enters the network's head, from the feature cache or computed by all ranks."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from launcher.checkpoint.state import TrainState
from launcher.commands.recipe.probe.head import HeadInput, SplitFeatures, find_head_input
from launcher.data.features.format import Layout, Value
from launcher.errors import UserError
from launcher.models.frozen.freeze import frozen_sha256
from launcher.models.frozen.split import FrozenSplit, SplitError
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


@dataclass(frozen=True)
class Extracted:
    """The features of every split, as this rank reads them."""

    split: FrozenSplit
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
    _check_room(job, values)
    store = build_store(job, split, log.say)
    requests = [build_request(job, name, feed, values[name]) for name, feed in with_engine(inputs, engine).items()]
    missing = {request.split: store.count_missing(request) for request in requests}
    compile_if_worth(job, engine, sum(missing.values()), log.say)
    splits = {each.split: SplitFeatures(store.open(each), job.plan.num_images(each.split)) for each in requests}
    return Extracted(split, head_input, splits, missing, time.perf_counter() - start_s)


def _check_room(job: Job, values: Mapping[str, tuple[Value, ...]]) -> None:
    """Raise UserError when the features of all splits are more than the recipe allows."""
    num_bytes = sum(Layout(each, job.plan.num_images(name), 1).num_bytes for name, each in values.items())
    gib, limit_gib = num_bytes / 2**30, job.recipe.strategy.feature_cache_gib
    if gib > limit_gib:
        raise UserError(
            f"strategy.feature_cache_gib: the features take {gib:.2g} GiB, {limit_gib:g} are allowed; "
            f"set it to {math.ceil(gib * 100) / 100:g}"
        )


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
    head_input = find_head_input(split, network.model, network.head_name)
    if head_input is None:
        raise UserError(f"{refusal}: its classifier cannot be separated from the rest; choose another backbone")
    return split, head_input
