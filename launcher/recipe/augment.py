"""The `augment` section: what happens to an image between decoding and the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.fields import Fraction, Positive, Section, Size


class Resize(Section):
    """Scale with antialiasing, bilinear."""

    op: Literal["resize"]
    """Which operation."""
    size: Size
    """Pixels. One number: the shorter side, keeping the shape. [height, width]: exactly that."""


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


class Rotation(Section):
    """Turn about the middle by a random angle, bilinear; corners become black."""

    op: Literal["rotation"]
    """Which operation."""
    degrees: Annotated[float, Field(gt=0.0, le=180.0)]
    """Angles are uniform in [-degrees, degrees]."""


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


EvalOp = Annotated[Resize | CenterCrop, Field(discriminator="op")]
TrainOp = Annotated[
    Resize | CenterCrop | RandomCrop | RandomResizedCrop | Rotation | HorizontalFlip | VerticalFlip,
    Field(discriminator="op"),
]
RANDOM_OPS = ("random_crop", "random_resized_crop", "rotation", "horizontal_flip", "vertical_flip")
"""What a TrainOp can be and an EvalOp cannot."""
Channels = tuple[float, float, float]
Spreads = tuple[Positive, Positive, Positive]


class Augment(Section):
    """Operations in order, on whole batches on the device; random numbers are keyed by (run.seed, epoch, sample)."""

    train: Annotated[tuple[TrainOp, ...], Field(min_length=1)]
    """Operations on training images, in order. Together they must give every image one size."""
    eval: Annotated[tuple[EvalOp, ...], Field(min_length=1)]
    """Operations on validation and test images, in order; nothing random."""
    mean: Channels | Literal["dataset"] = "dataset"
    """Red, green, blue values in [0, 1] subtracted last; `dataset`: the training split's, from the manifest."""
    std: Spreads | Literal["dataset"] = "dataset"
    """Red, green, blue values in [0, 1] divided by last; `dataset`: the training split's, from the manifest."""
