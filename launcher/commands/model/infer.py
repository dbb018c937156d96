"""Inference with a trained network on any images: what the commands after training share.

B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from launcher.augment.execute import Augment
from launcher.augment.images import packed_images_of
from launcher.augment.sizes import find_min_side
from launcher.commands.model.options import Device, TransformName
from launcher.data.bad_samples import BadSamples
from launcher.data.decode import decode_image
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader
from launcher.data.reader import Sample, SampleReader
from launcher.data.threads import count_workers
from launcher.distributed.strategy import Strategy, build_strategy, choose_device
from launcher.distributed.world import read_world
from launcher.errors import UserError
from launcher.recipe.fields import with_values
from launcher.recipe.schema import Recipe, Run
from launcher.recipe.schema import Strategy as StrategySection

TestTransform = Callable[[Tensor], Tensor]

TEST_TRANSFORMS: Mapping[TransformName, TestTransform] = {
    "none": lambda images_BCHW: images_BCHW,
    "rotate180": lambda images_BCHW: images_BCHW.flip((2, 3)),
    "hflip": lambda images_BCHW: images_BCHW.flip(3),
    "vflip": lambda images_BCHW: images_BCHW.flip(2),
}
"""Transforms of images as they enter the network, by their `--transform`."""


class TransformedModel(nn.Module):
    """A network that transforms its images first."""

    def __init__(self, model: nn.Module, transform: TestTransform) -> None:
        super().__init__()
        self.model = model
        self.transform = transform

    def forward(self, images_BCHW: Tensor) -> Any:
        return self.model(self.transform(images_BCHW))


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
    workers = count_workers(None, strategy.world)
    loader = Loader(reader, workers, strategy.device, find_min_side(augment.ops), bad_samples=bad_samples)
    return ImageFeed(loader, augment, strategy, seed=0, views=None, engine=None)


def to_input(sample: Sample, augment: Augment) -> Tensor:
    """One image -> images_1CHW as in a validation with `augment`, on the CPU. Raise DataError when it is damaged."""
    pixels_HWC = decode_image(sample.content, sample.place, find_min_side(augment.ops))
    images = packed_images_of(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])
    return augment(images, np.zeros(1, dtype=np.int64), 0, 0)


def check_single_process(command: str) -> None:
    """Raise UserError when a launcher has started several processes for a command that runs as one."""
    if read_world(os.environ).size > 1:
        raise UserError(f"{command}: runs as one process; start it without accelerate launch, torchrun or srun")
