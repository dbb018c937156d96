"""A trained network at work on pictures that no training has planned: what the verbs after training share.

B batch, C channels, H x W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from launcher.augment.images import packed_images_of
from launcher.augment.pipeline import Augment, find_min_side
from launcher.data.bad_samples import BadSamples
from launcher.data.decode import decode_image
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader, count_workers
from launcher.data.reader import Sample, SampleReader
from launcher.distributed.strategy import Strategy, build_strategy, choose_device
from launcher.distributed.world import World, read_world
from launcher.errors import UserError, nearest
from launcher.recipe.fields import with_values
from launcher.recipe.schema import Strategy as StrategySection

Device = Literal["auto", "cpu", "cuda"]
TestTransform = Callable[[Tensor], Tensor]

TEST_TRANSFORMS: Mapping[str, TestTransform] = {
    "none": lambda images_BCHW: images_BCHW,
    "rotate180": lambda images_BCHW: images_BCHW.flip((2, 3)),
    "hflip": lambda images_BCHW: images_BCHW.flip(3),
    "vflip": lambda images_BCHW: images_BCHW.flip(2),
}
"""What may be done to every picture as it enters the network."""


class TransformedModel(nn.Module):
    """The network behind a turn of its images."""

    def __init__(self, model: nn.Module, transform: TestTransform) -> None:
        super().__init__()
        self.model = model
        self.transform = transform

    def forward(self, images_BCHW: Tensor) -> Any:
        return self.model(self.transform(images_BCHW))


def choose_test_transform(name: str) -> TestTransform:
    """Raise UserError when there is none of that name."""
    if name not in TEST_TRANSFORMS:
        raise UserError(f"--transform {name}: no such transform{nearest(name, TEST_TRANSFORMS)}")
    return TEST_TRANSFORMS[name]


def build_eval_strategy(
    trained_with: StrategySection, device: Device, world: World, seed: int = 0, deterministic: bool = False
) -> Strategy:
    """Of the same precision as the training's, on whatever device there is. Raise UserError as `build_strategy`.

    fp16 belongs to CUDA: without it the network computes in float32.
    """
    kind = choose_device(device, torch.cuda.device_count(), world, os.environ, "give --device cpu")
    precision = "no" if kind == "cpu" and trained_with.precision == "fp16" else trained_with.precision
    section = with_values(trained_with, {"device": device, "precision": precision, "sync_batchnorm": False})
    return build_strategy(section, world, seed, deterministic)


def build_feed(reader: SampleReader, augment: Augment, strategy: Strategy, bad_samples: BadSamples) -> ImageFeed:
    """Images as the network takes them, read and decoded by threads; `feed.loader` is to be closed.

    No more than two batches beyond one for each thread are in memory.
    """
    workers = count_workers(None, strategy.world)
    loader = Loader(reader, workers, strategy.device, find_min_side(augment.entries), bad_samples=bad_samples)
    return ImageFeed(loader, augment, strategy, seed=0, views=None, engine=None)


def to_input(sample: Sample, augment: Augment) -> Tensor:
    """One picture -> images_1CHW as a validation of `augment` makes it, on the CPU.

    Raise DataError when it is not a whole image.
    """
    pixels_HWC = decode_image(sample.content, sample.place, find_min_side(augment.entries))
    images = packed_images_of(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])
    return augment(images, np.zeros(1, dtype=np.int64), 0, 0)


def check_alone(verb: str) -> None:
    """Raise UserError where a launcher has started several processes for what works as one."""
    if read_world(os.environ).size > 1:
        raise UserError(f"{verb}: works as one process; start it without accelerate launch, torchrun or srun")
