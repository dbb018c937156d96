"""Inference with a trained network on any images: what the commands after training share.

B batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from launcher.augment.arrays import BOOL
from launcher.augment.execute import Augment
from launcher.augment.images import packed_images_of
from launcher.augment.sizes import find_min_side
from launcher.commands.model.options import Device, TransformName
from launcher.data.bad_samples import BadSamples
from launcher.data.cpus import count_cpus
from launcher.data.decode import decode_image
from launcher.data.feed import ImageFeed
from launcher.data.ids import Ids
from launcher.data.loader import Loader
from launcher.data.reader import Sample, SampleReader
from launcher.distributed.comm import Comm
from launcher.distributed.strategy import Strategy, build_strategy, choose_device
from launcher.distributed.world import read_world
from launcher.errors import EXIT_DONE, EXIT_FAILED, DataError, UserError
from launcher.models.loss import class_scores
from launcher.recipe.fields import with_values
from launcher.recipe.schema import Recipe, Run
from launcher.recipe.schema import Strategy as StrategySection
from launcher.text import Say, show_count

TEST_TRANSFORMS: Mapping[TransformName, Callable[[Tensor], Tensor]] = {
    "none": lambda images_BCHW: images_BCHW,
    "rotate180": lambda images_BCHW: images_BCHW.flip((2, 3)),
    "hflip": lambda images_BCHW: images_BCHW.flip(3),
    "vflip": lambda images_BCHW: images_BCHW.flip(2),
}
"""Transforms of images as they enter the network, by their `--transform`."""


class Probabilities(nn.Module):
    """A network that returns probabilities: images_BCHW -> probs_BK."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images_BCHW: Tensor) -> Tensor:
        return class_scores(self.model(images_BCHW)).float().softmax(1)


def build_eval_strategy(device: Device, recipe: Recipe | None = None) -> Strategy:
    """With precision, memory layout and seed of the training's `recipe`. Raise UserError as `build_strategy`.

    fp16 needs CUDA: on a CPU the network computes in float32.
    """
    section, run = (StrategySection(), Run()) if recipe is None else (recipe.strategy, recipe.run)
    world = read_world(os.environ)
    kind = choose_device(device, torch.cuda.device_count(), world, os.environ, "give --device cpu")
    precision = "no" if kind == "cpu" and section.precision == "fp16" else section.precision
    section = with_values(section, {"device": device, "precision": precision, "sync_batchnorm": False})
    return build_strategy(section, world, run.seed, run.deterministic)


def build_feed(reader: SampleReader, augment: Augment, strategy: Strategy, bad_samples: BadSamples) -> ImageFeed:
    """Images as the network takes them, read and decoded by threads. The caller closes `feed.loader`.

    At most two batches beyond one per thread are in memory.
    """
    loader = Loader(
        reader, count_cpus(strategy.comm), strategy.device, find_min_side(augment.ops), bad_samples=bad_samples
    )
    return ImageFeed(loader, augment, strategy, seed=0, num_views=None, engine=None)


def to_input(sample: Sample, augment: Augment) -> Tensor:
    """One image -> images_1CHW as in a validation with `augment`, on the CPU. Raise DataError when it is damaged."""
    pixels_HWC = decode_image(sample.content, sample.place, find_min_side(augment.ops))
    images = packed_images_of(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])
    return augment(images, np.zeros(1, dtype=np.int64), 0, 0)


class NameBadSamples:
    """Skips unreadable images, any number, and collects their errors for `report`: each is named once. Thread-safe.

    `num_reported`: images whose error has been reported, over all ranks.
    """

    def __init__(self) -> None:
        self.num_reported = 0
        self._ids: set[int] = set()
        self._new: list[str] = []
        self._shown: set[str] = set()
        self._lock = threading.Lock()

    def note(self, sample_id: int, error: DataError) -> None:
        with self._lock:
            if sample_id not in self._ids:
                self._ids.add(sample_id)
                self._new.append(f"launcher: {error}")

    def report(self, comm: Comm, say: Say) -> None:
        """Show the errors of all ranks since the last call. Called by every rank."""
        with self._lock:
            taken, self._new = self._new, []
        for messages in comm.all_gather_object(taken):
            self.num_reported += len(messages)
            for message in messages:
                if message not in self._shown:  # all images of a missing shard have the same
                    say(message)
                    self._shown.add(message)

    def check_any_readable(self, num_images: int) -> None:
        """Raise UserError when all images were reported. Call it before anything is written."""
        if num_images and self.num_reported == num_images:
            raise UserError(
                f"{num_images:,} of {num_images:,} images cannot be read, nothing is written; choose other images"
            )

    def describe(self) -> str:
        """The end of a line about the other images."""
        return f"; skipped {show_count(self.num_reported, 'unreadable image')}" if self.num_reported else ""

    @property
    def exit_code(self) -> int:
        return EXIT_FAILED if self.num_reported else EXIT_DONE

    def among(self, ids_B: Ids) -> BOOL:
        with self._lock:
            return np.isin(ids_B, list(self._ids))

    def take_new(self) -> dict[int, str]:
        return {}
