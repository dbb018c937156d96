"""The frozen part of a training made ready: split off, its engine, where its features are kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import launcher
from launcher.checkpoint.state import TrainState
from launcher.data.features.format import Value
from launcher.data.features.store import FeatureRequest, FeatureStore, frozen_part_sha256, values_of
from launcher.data.feed import ImageFeed
from launcher.distributed.comm import Comm
from launcher.distributed.strategy import Strategy
from launcher.errors import UserError
from launcher.models.frozen.engine import Engine, should_compile
from launcher.models.frozen.split import FrozenSplit, SplitError, split_frozen
from launcher.recipe.facts import Size, eval_size, is_random, train_size
from launcher.text import Say
from launcher.train.inputs import Inputs
from launcher.train.job import Job


def split_network(job: Job, state: TrainState) -> FrozenSplit:
    """Split the network where its frozen part ends. Called by every rank.

    Raise SplitError on every rank when one of them cannot split it.
    """
    sizes = sorted({train_size(job.recipe), eval_size(job.recipe)})
    examples = [_example(job.strategy, 2, size) for size in sizes]
    return split_on_all(job.strategy.comm, lambda: split_frozen(state.model, job.recipe.backbone.name, examples))


def split_on_all(comm: Comm, split: Callable[[], FrozenSplit]) -> FrozenSplit:
    """The result of `split`. Called by every rank; raise SplitError on all of them when it is raised on one.

    The parts are compared with the whole in numbers, and GPUs may choose other algorithms: a rank that trained the
    whole network alone would not be there when the others gather their features.
    """
    found: FrozenSplit | None = None
    reason: str | None = None
    try:
        found = split()
    except SplitError as error:
        reason = str(error)
    for rank, text in enumerate(comm.all_gather_object(reason)):
        if text is not None:
            raise SplitError(text if rank == 0 else f"rank {rank}: {text}")
    assert found is not None
    return found


def build_engine(job: Job, split: FrozenSplit) -> Engine:
    return Engine(split.frozen, job.strategy.autocast, job.strategy.amp_dtype)


def with_engine(inputs: Inputs, engine: Engine | None) -> dict[str, ImageFeed]:
    """The feeds of images, which now go through the frozen part."""
    return {name: replace(feed, engine=engine) for name, feed in inputs.image_feeds.items()}


def build_store(job: Job, split: FrozenSplit, say: Say) -> FeatureStore:
    """The store for the features of this training's images."""
    return FeatureStore(
        comm=job.strategy.comm,
        device=job.strategy.device,
        eval_batch=job.plan.eval_batch,
        metadata={
            "launcher": launcher.__version__,  # another release may decode or augment otherwise
            "weights_sha256": frozen_part_sha256(split),
            "data_sha256": job.manifest.sha256,
            "backbone": job.recipe.backbone.name,
            "boundary": split.boundary,
            "precision": job.recipe.strategy.precision,
        },
        run_id=job.run.id,
        say=say,
    )


def feature_values(job: Job, engine: Engine) -> dict[str, tuple[Value, ...]]:
    """The features of one image of each split: training images may have another size."""
    sizes = {split: eval_size(job.recipe) for split in job.plan.num_eval} | {"train": train_size(job.recipe)}
    by_size = {size: values_of(engine(_example(job.strategy, 1, size))) for size in {*sizes.values()}}
    return {split: by_size[size] for split, size in sizes.items()}


def build_request(
    job: Job, split: str, feed: ImageFeed, values: tuple[Value, ...], views: tuple[int, ...] = (0,)
) -> FeatureRequest:
    """`views`: those to keep; a split to which nothing random is done has one."""
    augment = job.recipe.augment
    ops = augment.train if split == "train" else augment.eval_ops
    return FeatureRequest(
        split=split,
        feed=feed,
        transform={
            "ops": [op.model_dump(mode="json") for op in ops],
            "mean": feed.augment.mean.tolist(),
            "std": feed.augment.std.tolist(),
        },
        is_random=is_random(ops),
        num_images=job.plan.num_images(split),
        values=values,
        views=views,
        num_views=(augment.views or len(views)) if is_random(ops) else 1,
    )


def compile_if_worth(job: Job, engine: Engine, num_images: int, say: Say) -> None:
    """`num_images`: images to pass through the engine, over all ranks.

    Called by every rank. Raise UserError when compiling was asked for and fails on one of them.
    """
    if not num_images:
        return  # all features are there already
    plan, strategy, wanted = job.plan, job.strategy, job.recipe.strategy.compile
    size = train_size(job.recipe)
    flop = engine.count_flop(_example(strategy, 1, size))
    compiles, why = should_compile(wanted, flop, num_images // plan.world_size, strategy.device.type)
    if not compiles:
        say(f"frozen part: not compiled, {why}")
        return
    say(f"frozen part: compiling, {why}")
    failed: UserError | None = None
    try:
        engine.compile(_example(strategy, plan.micro_batch, size))
    except UserError as error:
        failed = error
    # A rank that could not compile would give other digits than the rest, and make them wait.
    if any(strategy.comm.all_gather_object(failed is not None)):
        engine.use_eager()
        if wanted == "on":
            raise failed or UserError("strategy.compile: failed on another process; set it to off")
        say(f"frozen part: not compiled after all: {failed or 'it failed on another process'}")


def _example(strategy: Strategy, num: int, size: Size) -> Tensor:
    """images_BCHW that look like nothing, made without touching torch's generator."""
    values = torch.arange(num * 3 * size[0] * size[1], device=strategy.device) * 0.7
    return strategy.layout(values.sin().view(num, 3, *size))
