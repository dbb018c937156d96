"""Operations of `augment.train` that compute new pixels of images of one size.

They are torchvision's of the same names, with parameters drawn for each image, and stand after a crop or resize.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.fields import Fraction, NotNegative, Positive, Section

Share = Annotated[Fraction, Field(gt=0.0)]


class Affine(Section):
    """Turn, move, scale and shear about the middle; what comes from outside is black. As RandomAffine."""

    op: Literal["affine"]
    """Which operation."""
    degrees: Annotated[float, Field(ge=0.0, le=180.0)]
    """Angles are uniform in [-degrees, degrees]."""
    translate: tuple[Fraction, Fraction] = (0.0, 0.0)
    """Farthest move along x and along y, as fractions of width and height; moves are whole pixels."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Smallest and largest factor: 2 is twice as large."""
    shear: tuple[Annotated[float, Field(ge=0.0, lt=90.0)], Annotated[float, Field(ge=0.0, lt=90.0)]] = (0.0, 0.0)
    """Largest shear along x and along y, in degrees; both are uniform in [-shear, shear]."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """How pixels are weighed."""


class Perspective(Section):
    """Look at the image from aside; what comes from outside is black. As RandomPerspective."""

    op: Literal["perspective"]
    """Which operation."""
    distortion_scale: Share = 0.5
    """How far a corner may move inwards, as a fraction of half of the side."""
    p: Share = 0.5
    """Share of the images that are bent."""
    interpolation: Literal["nearest", "bilinear"] = "bilinear"
    """How pixels are weighed."""


class ColorJitter(Section):
    """Change brightness, contrast, saturation and hue, in an order drawn for each image. As ColorJitter."""

    op: Literal["color_jitter"]
    """Which operation."""
    brightness: NotNegative = 0.0
    """Factors are uniform in [max(0, 1 - brightness), 1 + brightness]."""
    contrast: NotNegative = 0.0
    """Factors are uniform in [max(0, 1 - contrast), 1 + contrast]."""
    saturation: NotNegative = 0.0
    """Factors are uniform in [max(0, 1 - saturation), 1 + saturation]."""
    hue: Annotated[float, Field(ge=0.0, le=0.5)] = 0.0
    """Turns of the colour circle, uniform in [-hue, hue]."""


class Grayscale(Section):
    """Make grey, in three channels. As RandomGrayscale."""

    op: Literal["grayscale"]
    """Which operation."""
    p: Share = 0.1
    """Share of the images that become grey."""


class Gamma(Section):
    """Raise values in [0, 1] to a power. As adjust_gamma, drawn."""

    op: Literal["gamma"]
    """Which operation."""
    gamma: tuple[Positive, Positive]
    """Smallest and largest power; above 1 darkens."""


class Solarize(Section):
    """Negative of the pixels from a threshold on. As RandomSolarize."""

    op: Literal["solarize"]
    """Which operation."""
    threshold: Fraction
    """On [0, 1]: 0 is the negative of the whole image."""
    p: Share = 0.5
    """Share of the images."""


class Posterize(Section):
    """Keep the upper bits of each of the 8-bit values. As RandomPosterize."""

    op: Literal["posterize"]
    """Which operation."""
    bits: Annotated[int, Field(ge=0, le=7)]
    """How many are kept."""
    p: Share = 0.5
    """Share of the images."""


class Autocontrast(Section):
    """Stretch each channel to reach from black to white. As RandomAutocontrast."""

    op: Literal["autocontrast"]
    """Which operation."""
    p: Share = 0.5
    """Share of the images."""


class Equalize(Section):
    """Make all levels of each channel about equally frequent. As RandomEqualize."""

    op: Literal["equalize"]
    """Which operation."""
    p: Share = 0.5
    """Share of the images."""


class Sharpness(Section):
    """Sharpen or soften. As RandomAdjustSharpness."""

    op: Literal["sharpness"]
    """Which operation."""
    factor: NotNegative
    """0 is blurred over 3 x 3 pixels, 1 changes nothing, 2 is sharper by as much."""
    p: Share = 0.5
    """Share of the images."""


class GaussianBlur(Section):
    """Blur by a Gaussian, mirrored at the edges. As GaussianBlur."""

    op: Literal["gaussian_blur"]
    """Which operation."""
    kernel_size: Annotated[int, Field(ge=1, le=255)]
    """Pixels that a pixel is made of, along each side; odd."""
    sigma: tuple[Positive, Positive] = (0.1, 2.0)
    """Smallest and largest standard deviation, in pixels."""


class GaussianNoise(Section):
    """Add noise to every value, and cut to [0, 1]. As GaussianNoise."""

    op: Literal["gaussian_noise"]
    """Which operation."""
    sigma: Share = 0.1
    """Standard deviation, on [0, 1]."""


class RandomErasing(Section):
    """Paint over a rectangle. As RandomErasing."""

    op: Literal["random_erasing"]
    """Which operation."""
    p: Share = 0.5
    """Share of the images."""
    scale: tuple[Share, Share] = (0.02, 0.33)
    """Smallest and largest area, as fractions of the image's."""
    ratio: tuple[Positive, Positive] = (0.3, 3.3)
    """Smallest and largest height / width."""
    value: Fraction | tuple[Fraction, Fraction, Fraction] = 0.0
    """Its colour on [0, 1], before mean and std: one number is a grey, three are red, green, blue."""


class RandAugment(Section):
    """Some of 14 operations of one strength, drawn for each image. As RandAugment (Cubuk et al. 2019)."""

    op: Literal["rand_augment"]
    """Which operation."""
    num_ops: Annotated[int, Field(ge=1, le=14)] = 2
    """How many, one after another."""
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9
    """How strong, of 0 to 30."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """How pixels are weighed by those that bend."""


class TrivialAugment(Section):
    """One of 14 operations of any strength, drawn for each image. As TrivialAugmentWide (Mueller, Hutter 2021)."""

    op: Literal["trivial_augment"]
    """Which operation."""
    interpolation: Literal["nearest", "bilinear"] = "nearest"
    """How pixels are weighed by those that bend."""


PixelOp = (
    Affine | Perspective | RandomErasing | GaussianBlur | GaussianNoise | Sharpness | RandAugment | TrivialAugment
) | (ColorJitter | Grayscale | Gamma | Solarize | Posterize | Autocontrast | Equalize)
PIXEL_OPS = (
    *("affine", "perspective", "color_jitter", "grayscale", "gamma", "solarize", "posterize", "autocontrast"),
    *("equalize", "sharpness", "gaussian_blur", "gaussian_noise", "random_erasing", "rand_augment", "trivial_augment"),
)
"""What a PixelOp can be."""
