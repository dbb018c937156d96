"""The network as one stage of freezing trains and judges it: which part learns, and what that part is fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn

from launcher.data.decode_cache import keep_decoded
from launcher.data.features.store import Source
from launcher.data.feed import Feed, ImageFeed
from launcher.models.frozen.engine import Engine
from launcher.models.frozen.freeze import find_blocks, freeze, frozen_names, frozen_sha256
from launcher.models.frozen.split import Cut, CutError
from launcher.models.optim.build import build_groups
from launcher.recipe.augment import RANDOM_OPS
from launcher.train.context import Training
from launcher.train.frozen import build_engine, build_feeds, build_source, build_store, compile_if_it_repays, cut_frozen

Say = Callable[[str], None]


@dataclass(frozen=True)
class Learner:
    """`stage`: of backbone.freeze, from 0."""

    stage: int
    wrapped: nn.Module
    """What trains, as training calls it on a feed's inputs."""
    judged: nn.Module
    """The same as in evaluation, with averaged weights where the recipe keeps them, and without DDP around it."""
    feeds: dict[str, Feed]
    """For each split."""
    frozen_sha256: str | None
    """Of what is frozen, as the stage began."""


def enter_stage(t: Training, number: int, step: int, should_stop: Callable[[], bool]) -> Learner:
    """Freeze what stage `number` of the recipe freezes, and give the optimizer what it sets free, after `step` steps.

    Called by every process. Raise UserError when compiling was asked for and fails, Stopped when asked to stop.
    """

    def say_as(name: str, message: str) -> None:
        t.console.say(message)
        t.journal.write("event", step, t.plan.epoch(step + 1) + 1, name=name, message=message)

    t.strategy.pulse.enter("prepare")
    say, say_kept = partial(say_as, "frozen_part"), partial(say_as, "images_kept")
    for stage in range(number + 1):
        _set_free(t, stage)
    network, ema = t.network.model, t.ema
    sha256 = frozen_sha256(network)
    t.strategy.check_same("frozen weights", [str(sha256)])
    parts = _cut(t, say)
    engine = None if parts is None else build_engine(t, parts)
    pictures = build_feeds(t, engine)
    feeds: dict[str, Feed] = {**pictures}
    if parts is not None and engine is not None:
        feeds |= _run_once(t, number, parts, engine, pictures, should_stop, say, say_kept)
    for split, feed in pictures.items():
        if feeds[split] is feed:
            _keep_decoded(t, split, feed, _count_images(t, number, split, step), say_kept)
    base: nn.Module = network if ema is None else ema.module
    return Learner(
        stage=number,
        wrapped=t.strategy.wrap(network if parts is None else parts.suffix),
        judged=base if parts is None else parts.eval_suffix(base),
        feeds=feeds,
        frozen_sha256=sha256,
    )


def _set_free(t: Training, stage: int) -> None:
    model = t.network.model
    freeze(t.network, frozen_names(t.network, t.recipe.backbone.stages[stage].freeze))
    held = {id(parameter) for group in t.optimizer.param_groups for parameter in group["params"]}
    names = {name for name, parameter in model.named_parameters() if id(parameter) in held}
    for group in build_groups(t.recipe.optim, model, t.network.head_names, find_blocks(t.network), but=names):
        t.optimizer.add_param_group(group)


def _cut(t: Training, say: Say) -> Cut | None:
    if all(parameter.requires_grad for parameter in t.network.model.parameters()):
        return None
    try:
        parts = cut_frozen(t)
    except CutError as error:
        say(f"frozen part: runs as part of the whole network: {error}")
        return None
    say(f"frozen part: everything up to {', '.join(parts.boundary)}, as inference")
    return parts


def _run_once(
    t: Training,
    number: int,
    parts: Cut,
    engine: Engine,
    feeds: dict[str, ImageFeed],
    should_stop: Callable[[], bool],
    say: Say,
    say_kept: Say,
) -> dict[str, Feed]:
    """Compile the engine where that repays, and compute features where they may be kept: the feeds that read them."""
    store = build_store(t, parts, should_stop, say)
    sources = store.choose(_find_sources(t, number, feeds, say))
    kept = {source.split for source in sources}
    num_images = sum(store.count_missing(source) for source in sources)
    num_images += sum(_count_images(t, number, split) for split in feeds if split not in kept)
    compile_if_it_repays(t, engine, num_images, say)
    for source in sources:
        _keep_decoded(t, source.split, source.feed, store.count_missing(source), say_kept)
    kept_feeds: dict[str, Feed] = {source.split: store.open(source) for source in sources}
    for source in sources:
        source.feed.loader.use(None)
    return kept_feeds


def _keep_decoded(t: Training, split: str, feed: ImageFeed, num_images: int, say: Say) -> None:
    """`num_images`: that will be read, over all processes: it is worth while from twice each on."""
    if t.recipe.data.cache != "none" and num_images >= 2 * feed.loader.reader.num_images:
        keep_decoded(t.strategy, split, feed.loader, t.recipe.data, t.run.id, say)


def _find_sources(t: Training, number: int, feeds: dict[str, ImageFeed], say: Say) -> list[Source]:
    """The splits that are worth keeping: nothing new is drawn for their images every epoch."""
    augment, plan = t.recipe.augment, t.plan
    is_random = augment.is_mixed or any(op.op in RANDOM_OPS for op in augment.train)
    first, last = _steps_of(t, number)
    sources = []
    for split, feed in feeds.items():
        epochs = range(plan.epoch(first), plan.epoch(last) + 1) if split == "train" else range(1)
        if split == "test" and last < plan.total_steps:
            continue  # evaluated at the end only
        if split == "train" and is_random and augment.views is None:
            continue
        source = build_source(t, split, feed, tuple(sorted({epoch % (augment.views or 1) for epoch in epochs})))
        if _count_images(t, number, split) >= source.num_records - plan.dropped_per_epoch * len(source.views):
            sources.append(source)
        else:
            say(f"features of {split}: not kept, training is too short to use them all")
    return sources


def _steps_of(t: Training, number: int) -> tuple[int, int]:
    """The first and the last step of a stage."""
    starts = (*t.plan.stage_starts, t.plan.total_steps)
    return starts[number] + 1, max(starts[number] + 1, min(starts[number + 1], t.plan.total_steps))


def _count_images(t: Training, number: int, split: str, done: int = 0) -> int:
    """Images of `split` that pass through the network in a stage, once `done` steps are done."""
    first, last = _steps_of(t, number)
    first = max(first, done + 1)
    if split == "train":
        return (last - first + 1) * t.plan.global_batch
    if split == "valid":
        return t.plan.num_eval[split] * sum(t.plan.is_evaluation(step) for step in range(first, last + 1))
    return t.plan.num_eval[split]
