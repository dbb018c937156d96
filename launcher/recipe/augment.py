"""The `augment` section: what happens to an image between decoding and the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.augment_pixels import PIXEL_OPS, PixelOp
from launcher.recipe.fields import Count, Fraction, Positive, Section, Size


class Resize(Section):
    """Scale with antialiasing."""

    op: Literal["resize"]
    """Which operation."""
    size: Size
    """Pixels. One number: the shorter side, keeping the shape. [height, width]: exactly that."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are weighed: `bicubic` is sharper, overshoots at edges and is cut to [0, 255]; both antialias."""


class CenterCrop(Section):
    """Cut out the middle; smaller images get a black border."""

    op: Literal["center_crop"]
    """Which operation."""
    size: Size
    """Pixels."""


class RandomCrop(Section):
    """Cut out a random window."""

    op: Literal["random_crop"]
    """Which operation."""
    size: Size
    """Pixels."""
    padding: Annotated[int, Field(ge=0, le=1024)] = 0
    """Black pixels added on every side first."""


class RandomResizedCrop(Section):
    """Cut out a window of random area and shape and scale it, with antialiasing, to one size."""

    op: Literal["random_resized_crop"]
    """Which operation."""
    size: Size
    """Pixels of the result."""
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    """Smallest and largest area of the window, as fractions of the image's."""
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    """Smallest and largest width / height of the window."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """How pixels are weighed: `bicubic` is sharper, overshoots at edges and is cut to [0, 255]; both antialias."""


class Rotation(Section):
    """Turn about the middle by a random angle; corners become black."""

    op: Literal["rotation"]
    """Which operation."""
    degrees: Annotated[float, Field(gt=0.0, le=180.0)]
    """Angles are uniform in [-degrees, degrees]."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """`nearest`: the pixel that is there, as torchvision's RandomRotation does unless told; faster on a CPU."""


class HorizontalFlip(Section):
    """Mirror left and right."""

    op: Literal["horizontal_flip"]
    """Which operation."""
    p: Annotated[Fraction, Field(gt=0.0)] = 0.5
    """Share of the images that are flipped."""


class VerticalFlip(Section):
    """Mirror top and bottom."""

    op: Literal["vertical_flip"]
    """Which operation."""
    p: Annotated[Fraction, Field(gt=0.0)] = 0.5
    """Share of the images that are flipped."""


class Mixing(Section):
    """Training images mixed in pairs of neighbours of the micro batch, which must be even."""

    alpha: Annotated[float, Field(gt=0.0, le=1000.0)]
    """The share that an image keeps is drawn from Beta(alpha, alpha): with 1 all are equally likely, towards 0 those
    near 0 and 1 are, above 1 those near a half."""


EvalOp = Annotated[Resize | CenterCrop, Field(discriminator="op")]
TrainOp = Annotated[
    Resize | CenterCrop | RandomCrop | RandomResizedCrop | Rotation | HorizontalFlip | VerticalFlip | PixelOp,
    Field(discriminator="op"),
]
RANDOM_OPS = ("random_crop", "random_resized_crop", "rotation", "horizontal_flip", "vertical_flip", *PIXEL_OPS)
"""What a TrainOp can be and an EvalOp cannot."""
Channels = tuple[float, float, float]
Spreads = tuple[Positive, Positive, Positive]


class Augment(Section):
    """Operations in order, on whole batches on the device; random numbers are keyed by (run.seed, epoch, sample)."""

    train: Annotated[tuple[TrainOp, ...], Field(min_length=1)]
    """Operations on training images, in order. Together they must give every image one size."""
    views: Count | None = None
    """How many augmented views of each training image there are: epoch e uses view e modulo this. null: a new one every
    epoch. With a number, what a frozen backbone makes of them is computed once: see strategy.feature_cache_gib."""
    mixup: Mixing | None = None
    """Blend the two training images of each pair, and their labels (Zhang et al. 2017). null: off."""
    cutmix: Mixing | None = None
    """Swap a box between the two training images of each pair, and as much of their labels (Yun et al. 2019). With
    mixup, each pair draws one of the two, evenly. null: off."""
    mix_p: Annotated[Fraction, Field(gt=0.0)] = 1.0
    """Share of the pairs that mixup or cutmix mixes; the others stay as they are."""
    eval: Annotated[tuple[EvalOp, ...], Field(min_length=1)] | None = None
    """Operations on validation and test images, in order; nothing random. null: those that the pretrained weights named
    by backbone.weights were made with. Required without such weights."""
    mean: Channels | Literal["dataset"] | None = None
    """Red, green, blue values in [0, 1] subtracted last; `dataset`: the training split's, from the manifest. null: what
    the pretrained weights named by backbone.weights were made with; without such weights, `dataset`."""
    std: Spreads | Literal["dataset"] | None = None
    """Red, green, blue values in [0, 1] divided by last; `dataset`: the training split's, from the manifest. null: as
    for mean."""

    @property
    def is_mixed(self) -> bool:
        """Whether training images are mixed with each other."""
        return self.mixup is not None or self.cutmix is not None

    @property
    def eval_ops(self) -> tuple[EvalOp, ...]:
        """`eval`, which has been filled in wherever this is asked."""
        assert self.eval is not None
        return self.eval

    def normalisation(self, dataset_mean: Channels, dataset_std: Channels) -> tuple[Channels, Channels]:
        """Mean and standard deviation of each channel on [0, 1], where null has been filled in."""
        assert self.mean is not None
        assert self.std is not None
        mean = dataset_mean if self.mean == "dataset" else self.mean
        return mean, dataset_std if self.std == "dataset" else self.std
