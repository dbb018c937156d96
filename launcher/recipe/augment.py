"""The `augment` section: the operations on an image between decoding and the network."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.augment_pixels import PIXEL_OPS, PixelOp
from launcher.recipe.fields import Count, Fraction, Op, Positive, Section, Size


class Resize(Section):
    """Resize with antialiasing."""

    op: Op[Literal["resize"]]
    size: Size
    """Pixels: one number is the shorter side, and the shape stays; [height, width] is the exact size."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation, with antialiasing. `bicubic` is sharper, overshoots at edges and is clipped to [0, 255]."""


class CenterCrop(Section):
    """Crop the center; smaller images get a black border."""

    op: Op[Literal["center_crop"]]
    size: Size
    """Pixels of the crop: one number, or [height, width]."""


class RandomCrop(Section):
    """Crop a random window."""

    op: Op[Literal["random_crop"]]
    size: Size
    """Pixels of the window: one number, or [height, width]."""
    padding: Annotated[int, Field(ge=0, le=1024)] = 0
    """Black pixels added on every side before the crop."""


class RandomResizedCrop(Section):
    """Crop a window of random area and shape, and resize it with antialiasing."""

    op: Op[Literal["random_resized_crop"]]
    size: Size
    """Pixels of the result: one number, or [height, width]."""
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    """Smallest and largest area of the window, as fractions of the image area."""
    ratio: tuple[Positive, Positive] = (0.75, 4 / 3)
    """Smallest and largest width / height of the window."""
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    """Interpolation, with antialiasing. `bicubic` is sharper, overshoots at edges and is clipped to [0, 255]."""


class Rotation(Section):
    """Rotate about the center by a random angle; corners become black."""

    op: Op[Literal["rotation"]]
    degrees: Annotated[float, Field(gt=0.0, le=180.0)]
    """Largest angle in degrees; angles are uniform in [-degrees, degrees]."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """Interpolation. `nearest` is the default of torchvision's RandomRotation, and faster on a CPU."""


class HorizontalFlip(Section):
    """Mirror left and right."""

    op: Op[Literal["horizontal_flip"]]
    p: Annotated[Fraction, Field(gt=0.0)] = 0.5
    """Probability of a flip."""


class VerticalFlip(Section):
    """Mirror top and bottom."""

    op: Op[Literal["vertical_flip"]]
    p: Annotated[Fraction, Field(gt=0.0)] = 0.5
    """Probability of a flip."""


class Mixing(Section):
    """Mixing of training images in pairs of neighbors in the micro batch, which must be even."""

    alpha: Annotated[float, Field(gt=0.0, le=1000.0)]
    """Parameter of Beta(alpha, alpha), from which the share that an image keeps is drawn: 1 is uniform, smaller values
    prefer shares near 0 and 1, larger values prefer shares near a half."""


EvalOp = Annotated[Resize | CenterCrop, Field(discriminator="op")]
TrainOp = Annotated[
    Resize | CenterCrop | RandomCrop | RandomResizedCrop | Rotation | HorizontalFlip | VerticalFlip | PixelOp,
    Field(discriminator="op"),
]
RANDOM_OPS = ("random_crop", "random_resized_crop", "rotation", "horizontal_flip", "vertical_flip", *PIXEL_OPS)
"""Names of the TrainOps that are no EvalOps."""
Channels = tuple[float, float, float]
Spreads = tuple[Positive, Positive, Positive]


class Augment(Section):
    """Operations in order, the same on CPU and GPU. Random numbers are keyed by (run.seed, view, sample id)."""

    train: Annotated[tuple[TrainOp, ...], Field(min_length=1)]
    """Operations on training images, in order. Together they must give every image one size."""
    views: Count | None = None
    """Number of augmented views of each training image: epoch e uses view e modulo this. null: a new view every epoch.
    With a number, the features of a frozen backbone are computed once per view: see strategy.feature_cache_gib."""
    mixup: Mixing | None = None
    """Blend the two images of each pair, and their labels (Zhang et al. 2017). null: off."""
    cutmix: Mixing | None = None
    """Swap a box between the two images of each pair, and the same share of their labels (Yun et al. 2019). With mixup,
    each pair draws one of the two with equal probability. null: off."""
    mix_p: Annotated[Fraction, Field(gt=0.0)] = 1.0
    """Probability that a pair is mixed."""
    eval: Annotated[tuple[EvalOp, ...], Field(min_length=1)] | None = None
    """Operations on validation and test images, in order; none is random. null: the transform of the pretrained weights
    that backbone.weights names; required without such weights."""
    mean: Channels | Literal["dataset"] | None = None
    """Means of red, green and blue in [0, 1], subtracted last. `dataset`: those of the training split, from the
    manifest. null: those of the pretrained weights that backbone.weights names; `dataset` without such weights."""
    std: Spreads | Literal["dataset"] | None = None
    """Standard deviations of red, green and blue in [0, 1], by which the result is divided. `dataset` and null: as for
    mean."""

    @property
    def is_mixed(self) -> bool:
        return self.mixup is not None or self.cutmix is not None

    @property
    def eval_ops(self) -> tuple[EvalOp, ...]:
        """`eval` of a complete recipe, where null has been replaced."""
        assert self.eval is not None
        return self.eval

    def normalisation(self, dataset_mean: Channels, dataset_std: Channels) -> tuple[Channels, Channels]:
        """Mean and standard deviation of each channel on the scale [0, 1], of a complete recipe."""
        assert self.mean is not None
        assert self.std is not None
        mean = dataset_mean if self.mean == "dataset" else self.mean
        return mean, dataset_std if self.std == "dataset" else self.std
