"""The frozen part of a training cut off and made ready: its engine, what it is fed, and where its features are kept."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import launcher
from launcher.augment.mix import build_mix
from launcher.augment.parameter_hash import NoWitness, Witness
from launcher.data.features.store import FeatureStore, Source, prefix_sha256, values_of
from launcher.data.feed import ImageFeed
from launcher.errors import UserError
from launcher.models.frozen.engine import Engine, should_compile
from launcher.models.frozen.split import Cut, cut
from launcher.recipe.augment import RANDOM_OPS, EvalOp, TrainOp
from launcher.recipe.lint import final_size
from launcher.train.context import Training

Say = Callable[[str], None]


def cut_frozen(t: Training) -> Cut:
    """Cut the network where its frozen part ends. Raise CutError when that cannot be."""
    augment = t.recipe.augment
    sizes = {size for size in (final_size(augment.train), final_size(augment.eval_ops)) if size is not None}
    return cut(t.network.model, t.recipe.backbone.name, [_example(t, 2, size) for size in sorted(sizes)])


def build_engine(t: Training, parts: Cut) -> Engine:
    return Engine(parts.prefix, t.strategy.autocast, t.strategy.amp_dtype)


def build_feeds(t: Training, engine: Engine | None) -> dict[str, ImageFeed]:
    """Each split from its pictures."""
    return {
        split: ImageFeed(
            loader=loader,
            augment=t.augment_train if split == "train" else t.augment_eval,
            strategy=t.strategy,
            seed=t.recipe.run.seed,
            views=t.recipe.augment.views if split == "train" else None,
            engine=engine,
            mix=build_mix(t.recipe.augment, t.plan.num_classes) if split == "train" else None,
            witness=Witness if split == "train" and t.recipe.log.samples else NoWitness,
        )
        for split, loader in t.loaders.items()
    }


def build_store(t: Training, parts: Cut, should_stop: Callable[[], bool], say: Say) -> FeatureStore:
    """Where what the frozen part gives for this training's images is kept."""
    return FeatureStore(
        strategy=t.strategy,
        eval_batch=t.plan.eval_batch,
        facts={
            "launcher": launcher.__version__,  # another release may decode or augment otherwise
            "weights_sha256": prefix_sha256(parts),
            "data_sha256": t.state.data_sha256,
            "backbone": t.recipe.backbone.name,
            "boundary": parts.boundary,
            "precision": t.recipe.strategy.precision,
        },
        run_id=t.run.id,
        room_bytes=t.recipe.strategy.feature_cache_gib * 2**30,
        should_stop=should_stop,
        say=say,
    )


def build_source(t: Training, split: str, feed: ImageFeed, views: tuple[int, ...]) -> Source:
    """A split to be kept, in these views; what nothing random is done to has one."""
    augment = t.recipe.augment
    ops = augment.train if split == "train" else augment.eval_ops
    is_random = any(op.op in RANDOM_OPS for op in ops)
    assert feed.engine is not None
    return Source(
        split=split,
        feed=feed,
        transform={
            "ops": [op.model_dump(mode="json") for op in ops],
            "mean": t.augment_eval.mean.tolist(),
            "std": t.augment_eval.std.tolist(),
        },
        is_random=is_random,
        num_images=t.plan.num_train if split == "train" else t.plan.num_eval[split],
        # Training and evaluation may have images of different sizes.
        values=values_of(feed.engine(_example(t, 1, _size_of(ops)))),
        views=views if is_random else (0,),
        num_views=(augment.views or len(views)) if is_random else 1,
    )


def compile_if_it_repays(t: Training, engine: Engine, num_images: int, say: Say) -> None:
    """`num_images`: that will go through the engine, over all processes.

    Called by every process. Raise UserError when compiling was asked for and fails on one of them.
    """
    if not num_images:
        return  # all features are there already
    flop = engine.count_flop(_example(t, 1, _size_of(t.recipe.augment.train)))
    per_process = num_images // t.plan.world_size
    compiles, why = should_compile(t.recipe.strategy.compile, flop, per_process, t.strategy.device.type)
    if compiles:
        say(f"frozen part: compiling, {why}")
        _compile(t, engine, say)
    else:
        say(f"frozen part: not compiled, {why}")


def _compile(t: Training, engine: Engine, say: Say) -> None:
    failed: UserError | None = None
    try:
        engine.compile(_example(t, t.plan.micro_batch, _size_of(t.recipe.augment.train)))
    except UserError as error:
        failed = error
    # A process that could not compile would give other digits than the rest, and make them wait.
    if any(t.strategy.gather(failed is not None)):
        engine.forget_compiled()
        if t.recipe.strategy.compile == "on":
            raise failed or UserError("strategy.compile: failed on another process; set it to off")
        say(f"frozen part: not compiled after all: {failed or 'it failed on another process'}")


def _size_of(ops: tuple[TrainOp, ...] | tuple[EvalOp, ...]) -> tuple[int, int]:
    size = final_size(ops)
    assert size is not None, "a recipe whose images have different sizes is refused"
    return size


def _example(t: Training, num: int, size: tuple[int, int]) -> Tensor:
    """images_BCHW that look like nothing, made without touching torch's generator."""
    values = torch.arange(num * 3 * size[0] * size[1], device=t.strategy.device) * 0.7
    return t.strategy.layout(values.sin().view(num, 3, *size))
