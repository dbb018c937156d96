"""Colors, blur, noise and erasing: parameters of a batch as functions of uniform numbers.

Pure NumPy, as `draw`. With a probability `p`, images that are not chosen get the parameter that changes nothing.

Shapes: B images; N uniform numbers in [0, 1) per image; K numbers of a blur; everything is float64.
"""

from __future__ import annotations

import numpy as np

from launcher.augment.arrays import FLOAT64, INT64, Uniforms
from launcher.augment.draw import between, draw_shapes
from launcher.recipe.augment_pixels import ColorJitter, GaussianBlur, GaussianNoise, RandomErasing

WHITE = 255.0
JITTERS = ("brightness", "contrast", "saturation", "hue")
"""Adjustments of `color_jitter`."""
UNCHANGED: FLOAT64 = np.array([1.0, 1.0, 1.0, 0.0])
"""The factor of each of JITTERS that changes nothing."""


def choose(p: float, uniforms: Uniforms, value: float, otherwise: float) -> FLOAT64:
    """`value` with probability p: parameters_B."""
    return np.where(uniforms(1)[:, 0] < p, value, otherwise)


def color_jitter(op: ColorJitter, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Factors and the order of JITTERS for each image, parameters_B8: torchvision's `ColorJitter`, drawn per image.

    Factors are uniform in [max(0, 1 - x), 1 + x], hue shifts in [-x, x] of the color circle.
    """
    uniforms_B8 = uniforms(8)
    widths_4 = np.array([op.brightness, op.contrast, op.saturation, op.hue])
    lows_4 = np.append(np.maximum(1 - widths_4[:3], 0), -op.hue)
    factors_B4 = lows_4 + (UNCHANGED + widths_4 - lows_4) * uniforms_B8[:, :4]
    return np.concatenate([factors_B4, np.argsort(uniforms_B8[:, 4:], axis=1)], axis=1)


def gaussian_blur(op: GaussianBlur, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Weights of a Gaussian with a standard deviation uniform in `sigma` pixels, sum one: kernels_BK."""
    distances_K = np.arange(op.kernel_size) - (op.kernel_size - 1) / 2
    kernels_BK: FLOAT64 = np.exp(-0.5 * (distances_K / between(uniforms(1), op.sigma)) ** 2)
    kernels_BK /= kernels_BK.sum(axis=1, keepdims=True)
    return kernels_BK


def gaussian_noise(op: GaussianNoise, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """A key of 53 bits, which float64 holds exactly, and the standard deviation: parameters_B2."""
    keys_B1 = uniforms(1) * 2**53
    return np.concatenate([keys_B1, np.full_like(keys_B1, op.sigma)], axis=1)


def random_erasing(op: RandomErasing, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """The box to erase, of no pixels where not chosen, and its color on the scale [0, 255]: parameters_B7.

    The distribution of torchvision's `RandomErasing`: up to 10 tries of an area uniform in `scale` (fractions of the
    image's) and a height / width log-uniform in `ratio`; nothing is erased when no box smaller than the image is found.
    """
    uniforms_BN = uniforms(23)
    tries_BT2 = draw_shapes(uniforms_BN[:, :20], sizes_B2, op.scale, op.ratio)[:, :, ::-1]
    fits_BT = np.all(tries_BT2 < sizes_B2[:, None], axis=2)
    first_fit_B2 = tries_BT2[np.arange(len(sizes_B2)), fits_BT.argmax(axis=1)]
    corners_B2 = np.floor(uniforms_BN[:, 20:22] * (sizes_B2 - first_fit_B2 + 1))
    chosen_B1 = fits_BT.any(axis=1, keepdims=True) & (uniforms_BN[:, 22:] < op.p)
    boxes_B4 = np.where(chosen_B1, np.concatenate([corners_B2, first_fit_B2], axis=1), 0.0)
    color_3 = np.broadcast_to(np.asarray(op.value, dtype=np.float64) * WHITE, 3)
    return np.concatenate([boxes_B4, np.tile(color_3, (len(boxes_B4), 1))], axis=1)
