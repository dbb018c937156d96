"""One stage of freezing: which part of the network trains in it, and what that part is fed.

freeze -> split where the frozen part ends -> fold and perhaps compile that part -> keep what it gives, or images
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from torch import nn

from launcher.checkpoint.state import TrainState
from launcher.data.decode_cache import cache_decoded
from launcher.data.features.format import Layout
from launcher.data.feed import Feed, ImageFeed
from launcher.models.frozen.engine import Engine
from launcher.models.frozen.freeze import find_blocks, freeze, frozen_sha256
from launcher.models.frozen.split import FrozenSplit, SplitError
from launcher.models.loss import LossFunction, TrainLoss, build_loss, with_auxiliary
from launcher.models.optim.build import build_groups
from launcher.recipe.schema import Recipe
from launcher.run.run_log import RunLog
from launcher.text import Say
from launcher.train.choose_inputs import choose_inputs
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
class Stage:
    """`number`: in backbone.freeze, from 0."""

    number: int
    state: TrainState
    inputs: Inputs
    train_model: nn.Module
    """The part that trains, as a training step calls it on a feed's inputs: with autocast and DDP around it."""
    eval_model: nn.Module
    """The same part for evaluation: with averaged weights where the recipe keeps them, without autocast and DDP.

    It shares its tensors with `state.eval_model`: weights loaded there are evaluated here.
    """
    feeds: dict[str, Feed]
    """For each split."""
    loss: TrainLoss
    eval_loss: LossFunction
    frozen_sha256: str | None
    """Hash of the frozen tensors as the stage began; None where nothing is frozen."""


def enter_stage(job: Job, state: TrainState, inputs: Inputs, number: int, step: int, log: RunLog) -> Stage:
    """Stage `number` of the recipe, entered when `step` steps are done: frozen, split, its inputs chosen.

    Called by every rank. Raise UserError when compiling was asked for and fails, Stopped when asked to stop.
    """
    comm = job.strategy.comm
    comm.beacon.enter("prepare")
    say, say_kept = (partial(log.event, step, name, show=True) for name in ("frozen_part", "images_kept"))
    for earlier in range(number + 1):  # each in turn: parameter groups stand in the order of an uninterrupted run
        _freeze(job.recipe, state, earlier)
    sha256 = frozen_sha256(state.model)
    comm.check_same("frozen weights", [str(sha256)])
    split = _split(job, state, say)
    engine = None if split is None else build_engine(job, split)
    image_feeds = with_engine(inputs, engine)
    feeds: dict[str, Feed] = {**image_feeds}
    if split is not None and engine is not None:
        feeds |= _keep_features(job, number, split, engine, image_feeds, say, say_kept)
    steps = job.plan.stage_steps(number, first=step + 1)
    for name, feed in image_feeds.items():
        if feeds[name] is feed:
            _cache_decoded(job, name, feed, job.plan.count_reads(name, steps), say_kept)
    return Stage(
        number=number,
        state=state,
        inputs=inputs,
        train_model=job.strategy.wrap(state.model if split is None else split.trainable),
        eval_model=state.eval_model if split is None else split.eval_trainable(state.eval_model),
        feeds=feeds,
        loss=with_auxiliary(build_loss(job.recipe.loss, training=True), state.network.auxiliary_weight),
        eval_loss=build_loss(job.recipe.loss, training=False),
        frozen_sha256=sha256,
    )


def check_frozen(job: Job, stage: Stage) -> None:
    """Raise AssertionError on every rank when a frozen tensor is not what it was as the stage began."""
    has_changed = stage.frozen_sha256 != frozen_sha256(stage.state.model)
    if any(job.strategy.comm.all_gather_object(has_changed)):
        raise AssertionError("a frozen tensor has changed")


def _freeze(recipe: Recipe, state: TrainState, number: int) -> None:
    """Freeze what stage `number` freezes; the optimizer gets the parameters that it does not hold yet."""
    network, optimizer = state.network, state.optimizer
    freeze(network, recipe.backbone.stages[number].freeze)
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    names = {name for name, parameter in network.model.named_parameters() if id(parameter) in held}
    for group in build_groups(recipe.optim, network.model, network.head_names, find_blocks(network), but=names):
        optimizer.add_param_group(group)


def _split(job: Job, state: TrainState, say: Say) -> FrozenSplit | None:
    if all(parameter.requires_grad for parameter in state.model.parameters()):
        return None
    try:
        split = split_network(job, state)
    except SplitError as error:
        say(f"frozen part: runs as part of the whole network: {error}")
        return None
    say(f"frozen part: everything up to {', '.join(split.boundary)}, as inference")
    return split


def _keep_features(
    job: Job, number: int, split: FrozenSplit, engine: Engine, feeds: dict[str, ImageFeed], say: Say, say_kept: Say
) -> dict[str, Feed]:
    """Compile the engine where that repays, and compute the features that are kept: the feeds that read them."""
    values = feature_values(job, engine)
    record_bytes = {name: Layout(each, 1, 1).record_bytes for name, each in values.items()}
    room_bytes = job.recipe.strategy.feature_cache_gib * 2**30
    chosen = choose_inputs(job.plan, job.recipe.augment, number, record_bytes, room_bytes)
    for name, each in chosen.items():
        if each.note is not None:
            say(f"features of {name}: {each.note}")
    store = build_store(job, split, say)
    requests = [
        build_request(job, name, feeds[name], values[name], each.views)
        for name, each in chosen.items()
        if each.views is not None
    ]
    missing = {request.split: store.count_missing(request) for request in requests}
    num_images = sum(missing.get(name, each.num_images) for name, each in chosen.items())
    compile_if_worth(job, engine, num_images, say)
    for request in requests:
        _cache_decoded(job, request.split, request.feed, missing[request.split], say_kept)
    kept: dict[str, Feed] = {request.split: store.open(request) for request in requests}
    for request in requests:
        request.feed.loader.use_decoded(None)  # of no use once every view is computed
    return kept


def _cache_decoded(job: Job, split: str, feed: ImageFeed, num_images: int, say: Say) -> None:
    """Decode the images of a split once when each is read twice or more. `num_images`: reads to come, of all ranks."""
    if job.recipe.data.cache != "none" and num_images >= 2 * feed.loader.reader.num_images:
        cache_decoded(job.strategy, split, feed.loader, job.recipe.data, job.run.id, say)
