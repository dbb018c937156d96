"""Where a training's images come from: a feed for each split, and which of their images could not be read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from launcher.augment.execute import build_augment
from launcher.augment.mix import build_mix
from launcher.augment.parameter_hash import NullParameterHashes, ParameterHashes
from launcher.augment.sizes import find_min_side
from launcher.data.bad_samples import build_bad_sample_policy
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader
from launcher.data.nvjpeg import has_nvjpeg, time_decoders
from launcher.data.prepare import open_folder
from launcher.data.reader import ShardFolder, ShardReader
from launcher.data.threads import count_workers
from launcher.distributed.strategy import Strategy
from launcher.errors import UserError
from launcher.train.job import Job
from launcher.train.skipped_samples import SkippedSamples
from launcher.train.timing import StepTimer


@dataclass(frozen=True)
class Inputs:
    """`feeds`: each split, from its images; a stage puts its frozen part behind them, or reads features instead."""

    folder: ShardFolder
    feeds: dict[str, ImageFeed]
    timer: StepTimer
    skipped: SkippedSamples

    def close(self) -> None:
        for feed in self.feeds.values():
            feed.loader.close()


def build_inputs(job: Job, say: Callable[[str], None]) -> Inputs:
    """Called by every rank. Raise UserError when JPEG cannot be decoded where the recipe wants it."""
    data = job.recipe.data
    folder = open_folder(data, job.manifest, job.strategy.world)
    readers = {split: ShardReader(folder, job.manifest, split) for split in ("train", *job.plan.num_eval)}
    loaders = _build_loaders(job, readers, say)
    feeds = {split: _build_feed(job, split, loader) for split, loader in loaders.items()}
    policies = {split: loader.bad_samples for split, loader in loaders.items() if data.on_error == "skip"}
    shard_of = {split: reader.shard_of for split, reader in readers.items()}
    return Inputs(folder, feeds, StepTimer(), SkippedSamples(policies, shard_of, data.max_skipped))


def _build_feed(job: Job, split: str, loader: Loader) -> ImageFeed:
    augment, is_train = job.recipe.augment, split == "train"
    ops = augment.train if is_train else augment.eval_ops
    return ImageFeed(
        loader=loader,
        augment=build_augment(ops, *job.normalisation, job.strategy.memory_format),
        strategy=job.strategy,
        seed=job.recipe.run.seed,
        views=augment.views if is_train else None,
        engine=None,
        mix=build_mix(augment, job.plan.num_classes) if is_train else None,
        parameter_hashes=ParameterHashes if is_train and job.recipe.log.samples else NullParameterHashes,
    )


def _build_loaders(job: Job, readers: Mapping[str, ShardReader], say: Callable[[str], None]) -> dict[str, Loader]:
    data, augment, strategy = job.recipe.data, job.recipe.augment, job.strategy
    workers = count_workers(data.workers, strategy.world)
    train_side, eval_side = find_min_side(augment.train), find_min_side(augment.eval_ops)
    on_device = _choose_decoder(data.decode, readers["train"], train_side, workers, strategy, say)
    return {
        split: Loader(
            reader,
            workers,
            strategy.device,
            train_side if split == "train" else eval_side,
            on_device,
            build_bad_sample_policy(data),
        )
        for split, reader in readers.items()
    }


def _choose_decoder(
    wanted: Literal["auto", "cpu", "cuda"],
    reader: ShardReader,
    min_side: int | None,
    workers: int,
    strategy: Strategy,
    say: Callable[[str], None],
) -> bool:
    """Whether JPEG is decoded on the GPU: the same on every rank. Raise UserError where there is none."""
    if strategy.device.type == "cpu":
        if wanted == "cuda":
            raise UserError("data.decode: cuda decodes on a GPU and there is none here; use auto or cpu")
        return False
    has_it = all(strategy.comm.all_gather_object(wanted != "cpu" and has_nvjpeg(strategy.device)))
    if wanted == "cuda" and not has_it:
        raise UserError("data.decode: cuda needs a torchvision with nvJPEG; use auto or cpu")
    if wanted != "auto" or not has_it:
        return wanted == "cuda"
    # All at once, as in training: the ranks of a node share its cores.
    speeds = strategy.comm.all_gather_object(time_decoders(reader, min_side, workers, strategy.device))
    by_cpu, by_gpu = (float(sum(each)) for each in zip(*speeds, strict=True))
    place = "GPU" if by_gpu > by_cpu else "CPU"
    say(f"JPEG is decoded on the {place}: tried at {by_cpu:,.0f} images/s by CPU threads, {by_gpu:,.0f} by nvJPEG")
    return by_gpu > by_cpu
