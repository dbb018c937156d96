"""The network as one stage of freezing trains and judges it: which part learns, and what that part is fed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from launcher.errors import UserError
from launcher.feed import Feed, ImageFeed
from launcher.frozen import FeatureStore, Source, prefix_sha256, values_of
from launcher.models.cut import Cut, CutError, cut
from launcher.models.engine import Engine, should_compile
from launcher.models.freeze import find_blocks, freeze, frozen_names, frozen_sha256
from launcher.optim.build import build_groups
from launcher.recipe.augment import RANDOM_OPS
from launcher.recipe.contradictions import final_size
from launcher.training import Training

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

    def say(message: str) -> None:
        t.console.say(message)
        t.journal.write("event", step, t.plan.epoch(step + 1) + 1, name="frozen_part", message=message)

    for stage in range(number + 1):
        _set_free(t, stage)
    network, ema = t.network.model, t.ema
    parts = _cut(t, say)
    engine = None if parts is None else Engine(parts.prefix, t.strategy.autocast, t.strategy.amp_dtype)
    feeds: dict[str, Feed] = {**_build_feeds(t, engine)}
    if parts is not None and engine is not None:
        feeds |= _run_once(t, number, parts, engine, should_stop, say)
    base: nn.Module = network if ema is None else ema.module
    return Learner(
        stage=number,
        wrapped=t.strategy.wrap(network if parts is None else parts.suffix),
        judged=base if parts is None else parts.eval_suffix(base),
        feeds=feeds,
        frozen_sha256=frozen_sha256(network),
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
    augment = t.recipe.augment
    sizes = {size for size in (final_size(augment.train), final_size(augment.eval_ops)) if size is not None}
    try:
        parts = cut(t.network.model, t.recipe.backbone.name, [_example(t, 2, size) for size in sorted(sizes)])
    except CutError as error:
        say(f"frozen part: runs as part of the whole network: {error}")
        return None
    say(f"frozen part: everything up to {', '.join(parts.boundary)}, as inference")
    return parts


def _example(t: Training, num: int, size: tuple[int, int]) -> Tensor:
    """images_BCHW that look like nothing, made without touching torch's generator."""
    values = torch.arange(num * 3 * size[0] * size[1], device=t.strategy.device) * 0.7
    return t.strategy.layout(values.sin().view(num, 3, *size))


def _build_feeds(t: Training, engine: Engine | None) -> dict[str, ImageFeed]:
    return {
        split: ImageFeed(
            loader=loader,
            augment=t.augment_train if split == "train" else t.augment_eval,
            strategy=t.strategy,
            seed=t.recipe.run.seed,
            views=t.recipe.augment.views if split == "train" else None,
            engine=engine,
        )
        for split, loader in t.loaders.items()
    }


def _run_once(
    t: Training,
    number: int,
    parts: Cut,
    engine: Engine,
    should_stop: Callable[[], bool],
    say: Say,
) -> dict[str, Feed]:
    """Compile the engine where that repays, and compute features where they may be kept: the feeds that read them."""
    feeds = _build_feeds(t, engine)
    size = final_size(t.recipe.augment.train)
    assert size is not None, "a recipe whose images have different sizes is refused"
    store = FeatureStore(
        strategy=t.strategy,
        eval_batch=t.plan.eval_batch,
        facts={
            "weights_sha256": prefix_sha256(parts),
            "data_sha256": t.state.data_sha256,
            "backbone": t.recipe.backbone.name,
            "boundary": parts.boundary,
            "precision": t.recipe.strategy.precision,
        },
        values=values_of(engine(_example(t, 1, size))),
        room_bytes=t.recipe.strategy.feature_cache_gib * 2**30,
        should_stop=should_stop,
        say=say,
    )
    sources = store.choose(_find_sources(t, number, feeds))
    kept = {source.split for source in sources}
    num_images = sum(store.count_missing(source) for source in sources)
    num_images += sum(_count_images(t, number, split) for split in feeds if split not in kept)
    wanted, device = t.recipe.strategy.compile, t.strategy.device.type
    compiles, why = should_compile(
        wanted, engine.count_flop(_example(t, 1, size)), num_images // t.plan.world_size, device
    )
    if compiles:
        say(f"frozen part: compiling, {why}")
        _compile(t, engine, size, say)
    else:
        say(f"frozen part: not compiled, {why}")
    return {source.split: store.open(source) for source in sources}


def _compile(t: Training, engine: Engine, size: tuple[int, int], say: Say) -> None:
    failed: UserError | None = None
    try:
        engine.compile(_example(t, t.plan.micro_batch, size))
    except UserError as error:
        failed = error
    # A process that could not compile would give other digits than the rest, and make them wait.
    if any(t.strategy.gather(failed is not None)):
        engine.forget_compiled()
        if t.recipe.strategy.compile == "on":
            raise failed or UserError("strategy.compile: failed on another process; set it to off")
        say(f"frozen part: not compiled after all: {failed or 'it failed on another process'}")


def _find_sources(t: Training, number: int, feeds: dict[str, ImageFeed]) -> list[Source]:
    """The splits that are worth keeping: nothing new is drawn for their images every epoch."""
    augment, plan = t.recipe.augment, t.plan
    normalisation = {"mean": t.augment_eval.mean.tolist(), "std": t.augment_eval.std.tolist()}
    is_random = any(op.op in RANDOM_OPS for op in augment.train)
    first, last = _steps_of(t, number)
    num_views = min(augment.views or 1, plan.epoch(last) - plan.epoch(first) + 1) if is_random else 1
    sources = []
    for split, feed in feeds.items():
        is_train = split == "train"
        if is_train and is_random and augment.views is None:
            continue
        ops = augment.train if is_train else augment.eval_ops
        sources.append(
            Source(
                split=split,
                feed=feed,
                transform={"ops": [op.model_dump(mode="json") for op in ops], **normalisation},
                is_random=is_train and is_random,
                num_images=plan.num_train if is_train else plan.num_eval[split],
                views=(augment.views or 1) if is_train and is_random and num_views > 1 else 1,
            )
        )
    return sources


def _steps_of(t: Training, number: int) -> tuple[int, int]:
    """The first and the last step of a stage."""
    starts = (*t.plan.stage_starts, t.plan.total_steps)
    return starts[number] + 1, max(starts[number] + 1, min(starts[number + 1], t.plan.total_steps))


def _count_images(t: Training, number: int, split: str) -> int:
    """Images of `split` that pass through the network in a stage."""
    first, last = _steps_of(t, number)
    if split == "train":
        return (last - first + 1) * t.plan.global_batch
    if split == "valid":
        return t.plan.num_eval[split] * sum(t.plan.is_evaluation(step) for step in range(first, last + 1))
    return t.plan.num_eval[split]
