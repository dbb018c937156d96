"""Operations of `augment.train` that compute new pixel values of images of one size.

They are torchvision's operations of the same names, with parameters drawn per image; they follow a crop or a resize.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.fields import Fraction, NotNegative, Op, Positive, Section

Share = Annotated[Fraction, Field(gt=0.0)]
Probability = Annotated[Share, Field(description="Probability of the operation.")]


class Affine(Section):
    """Rotate, translate, scale and shear about the center; the outside is black. torchvision's RandomAffine."""

    op: Op[Literal["affine"]]
    degrees: Annotated[float, Field(ge=0.0, le=180.0)]
    """Largest angle in degrees; angles are uniform in [-degrees, degrees]."""
    translate: tuple[Fraction, Fraction] = (0.0, 0.0)
    """Largest translation along x and y, as fractions of width and height; translations are whole pixels."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Smallest and largest scale factor; 2 is twice as large."""
    shear: tuple[Annotated[float, Field(ge=0.0, lt=90.0)], Annotated[float, Field(ge=0.0, lt=90.0)]] = (0.0, 0.0)
    """Largest shear along x and y in degrees; shears are uniform in [-shear, shear]."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """Interpolation."""


class Perspective(Section):
    """Random perspective; the outside is black. torchvision's RandomPerspective."""

    op: Op[Literal["perspective"]]
    distortion_scale: Share = 0.5
    """Largest inward move of a corner, as a fraction of half the side."""
    p: Probability = 0.5
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """Interpolation."""


class ColorJitter(Section):
    """Change brightness, contrast, saturation and hue, in an order drawn per image. torchvision's ColorJitter."""

    op: Op[Literal["color_jitter"]]
    brightness: NotNegative = 0.0
    """Largest change of the factor, which is uniform in [max(0, 1 - brightness), 1 + brightness]."""
    contrast: NotNegative = 0.0
    """Largest change of the factor, which is uniform in [max(0, 1 - contrast), 1 + contrast]."""
    saturation: NotNegative = 0.0
    """Largest change of the factor, which is uniform in [max(0, 1 - saturation), 1 + saturation]."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Largest hue shift in turns of the color circle; shifts are uniform in [-hue, hue]."""


class Grayscale(Section):
    """Convert to gray in three channels. torchvision's RandomGrayscale."""

    op: Op[Literal["grayscale"]]
    p: Probability = 0.1


class Gamma(Section):
    """Raise values in [0, 1] to a random power. torchvision's adjust_gamma."""

    op: Op[Literal["gamma"]]
    gamma: tuple[Positive, Positive]
    """Smallest and largest power; above 1 darkens."""


class Solarize(Section):
    """Invert pixels at or above a threshold. torchvision's RandomSolarize."""

    op: Op[Literal["solarize"]]
    threshold: Fraction
    """Threshold in [0, 1]; 0 inverts the whole image."""
    p: Probability = 0.5


class Posterize(Section):
    """Keep the upper bits of every 8-bit value. torchvision's RandomPosterize."""

    op: Op[Literal["posterize"]]
    bits: Annotated[int, Field(ge=0, le=7)]
    """Number of bits to keep."""
    p: Probability = 0.5


class Autocontrast(Section):
    """Stretch each channel to reach from black to white. torchvision's RandomAutocontrast."""

    op: Op[Literal["autocontrast"]]
    p: Probability = 0.5


class Equalize(Section):
    """Equalize the histogram of each channel. torchvision's RandomEqualize."""

    op: Op[Literal["equalize"]]
    p: Probability = 0.5


class Sharpness(Section):
    """Sharpen or soften. torchvision's RandomAdjustSharpness."""

    op: Op[Literal["sharpness"]]
    factor: NotNegative
    """Sharpness factor: 0 is a blur over 3 x 3 pixels, 1 changes nothing, 2 sharpens by as much."""
    p: Probability = 0.5


class GaussianBlur(Section):
    """Gaussian blur with reflected edges. torchvision's GaussianBlur."""

    op: Op[Literal["gaussian_blur"]]
    kernel_size: Annotated[int, Field(ge=1, le=255)]
    """Side of the kernel in pixels; odd."""
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Smallest and largest standard deviation in pixels."""


class GaussianNoise(Section):
    """Add Gaussian noise and clip to [0, 1]. torchvision's GaussianNoise."""

    op: Op[Literal["gaussian_noise"]]
    sigma: Share = 0.1
    """Standard deviation on the scale [0, 1]."""


class RandomErasing(Section):
    """Fill a random rectangle. torchvision's RandomErasing."""

    op: Op[Literal["random_erasing"]]
    p: Probability = 0.5
    scale: tuple[Share, Share] = (0.02, 0.33)
    """Smallest and largest area, as fractions of the image area."""
    ratio: tuple[Positive, Positive] = (0.3, 3.3)
    """Smallest and largest height / width."""
    value: Fraction | tuple[Fraction, Fraction, Fraction] = 0.0
    """Color of the rectangle in [0, 1], before mean and std: one number is gray; three are red, green, blue."""


class RandAugment(Section):
    """Some of 14 operations at one magnitude, drawn per image. torchvision's RandAugment (Cubuk et al. 2019)."""

    op: Op[Literal["rand_augment"]]
    num_ops: Annotated[int, Field(ge=1, le=14)] = 2
    """Number of operations, one after another."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """Magnitude, from 0 to 30."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """Interpolation of the geometric operations."""


class TrivialAugment(Section):
    """One of 14 operations at a random magnitude, per image. torchvision's TrivialAugmentWide (Mueller, Hutter
    2021)."""

    op: Op[Literal["trivial_augment"]]
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """Interpolation of the geometric operations."""


PixelOp = (
    Affine | Perspective | RandomErasing | GaussianBlur | GaussianNoise | Sharpness | RandAugment | TrivialAugment
) | (ColorJitter | Grayscale | Gamma | Solarize | Posterize | Autocontrast | Equalize)
PIXEL_OPS = (
    *("affine", "perspective", "color_jitter", "grayscale", "gamma", "solarize", "posterize", "autocontrast"),
    *("equalize", "sharpness", "gaussian_blur", "gaussian_noise", "random_erasing", "rand_augment", "trivial_augment"),
)
"""Names of the PixelOps."""
