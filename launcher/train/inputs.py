"""The input of a training: a feed of images for each split, its times, and the images that cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from launcher.augment.execute import build_augment
from launcher.augment.mix import build_mix
from launcher.augment.parameter_hash import NullParameterHashes, ParameterHashes
from launcher.augment.sizes import find_min_side
from launcher.data.bad_samples import build_bad_sample_policy
from launcher.data.cpus import count_cpus
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader
from launcher.data.nvjpeg import nvjpeg_on
from launcher.data.prepare import open_folder
from launcher.data.reader import ShardFolder, ShardReader
from launcher.errors import UserError
from launcher.text import Say
from launcher.train.job import Job
from launcher.train.skipped_samples import SkippedSamples
from launcher.train.timing import StepTimer


@dataclass(frozen=True)
class Inputs:
    """`image_feeds`: each split, from its images; a stage puts its frozen part behind them, or reads features instead.

    Their loaders serve the feeds of every stage. `num_cpus`: this rank's share of its node's processors.
    """

    folder: ShardFolder
    image_feeds: dict[str, ImageFeed]
    timer: StepTimer
    skipped: SkippedSamples
    num_cpus: int

    def close(self) -> None:
        for feed in self.image_feeds.values():
            feed.loader.close()


def build_inputs(job: Job, say: Say) -> Inputs:
    """Called by every rank. Raise UserError when JPEG cannot be decoded where the recipe wants it."""
    data = job.recipe.data
    folder = open_folder(data, job.manifest, job.strategy.world)
    readers = {split: ShardReader(folder, job.manifest, split) for split in ("train", *job.plan.num_eval)}
    num_cpus = count_cpus(job.strategy.comm)
    loaders = _build_loaders(job, readers, num_cpus if data.workers is None else data.workers, say)
    feeds = {split: _build_feed(job, split, loader) for split, loader in loaders.items()}
    policies = {split: loader.bad_samples for split, loader in loaders.items() if data.on_error == "skip"}
    shard_of = {split: reader.shard_of for split, reader in readers.items()}
    return Inputs(folder, feeds, StepTimer(), SkippedSamples(policies, shard_of, data.max_skipped), num_cpus)


def _build_feed(job: Job, split: str, loader: Loader) -> ImageFeed:
    augment, is_train = job.recipe.augment, split == "train"
    ops = augment.train if is_train else augment.eval_ops
    return ImageFeed(
        loader=loader,
        augment=build_augment(ops, *job.normalisation, job.strategy.memory_format),
        strategy=job.strategy,
        seed=job.recipe.run.seed,
        num_views=augment.views if is_train else None,
        engine=None,
        mix=build_mix(augment, job.plan.num_classes) if is_train else None,
        parameter_hashes=ParameterHashes if is_train and job.recipe.log.samples else NullParameterHashes,
    )


def _build_loaders(job: Job, readers: Mapping[str, ShardReader], workers: int, say: Say) -> dict[str, Loader]:
    data, augment, device = job.recipe.data, job.recipe.augment, job.strategy.device
    sides = {split: find_min_side(augment.train if split == "train" else augment.eval_ops) for split in readers}
    on_device = _decodes_on_device(job, say)
    return {
        split: Loader(reader, workers, device, sides[split], on_device, build_bad_sample_policy(data))
        for split, reader in readers.items()
    }


def _decodes_on_device(job: Job, say: Say) -> bool:
    """Whether JPEG is decoded on the GPU: the same on every rank. Raise UserError where it cannot be."""
    wanted, strategy = job.recipe.data.decode, job.strategy
    if wanted != "cuda":  # auto, too: nvJPEG beside a training has not passed its test on a GPU yet
        return False
    if strategy.device.type == "cpu":
        raise UserError("data.decode: cuda decodes on a GPU and there is none here; use auto or cpu")
    if not all(strategy.comm.all_gather_object(nvjpeg_on(strategy.device).is_available())):
        raise UserError("data.decode: cuda needs a torchvision with nvJPEG; use auto or cpu")
    say("JPEG is decoded on the GPU by nvJPEG")
    return True
