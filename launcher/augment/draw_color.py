"""Colors, blur, noise and erasing: parameters of a batch as functions of uniform numbers.

Pure NumPy, as `draw`. With a probability `p`, images that are not chosen get the parameter that changes nothing.

Shapes: B images; N uniform numbers in [0, 1) per image; K numbers of a blur; everything is float64.
"""

from __future__ import annotations

import numpy as np

from launcher.augment.arrays import FLOAT64, INT64
from launcher.augment.draw import between

JITTER_NUMBERS = 8
JITTERS = ("brightness", "contrast", "saturation", "hue")
"""Adjustments of `color_jitter`."""
UNCHANGED: FLOAT64 = np.array([1.0, 1.0, 1.0, 0.0])
"""The factor of each of JITTERS that changes nothing."""
_TRIES = 10
ERASING_NUMBERS = 2 * _TRIES + 3


def draw_chosen(uniforms_B: FLOAT64, p: float, value: float, otherwise: float) -> FLOAT64:
    """`value` with probability p."""
    return np.where(uniforms_B < p, value, otherwise)


def draw_jitter(
    uniforms_BN: FLOAT64, brightness: float, contrast: float, saturation: float, hue: float
) -> tuple[FLOAT64, INT64]:
    """Factors_B4 and the order of JITTERS for each image, order_B4: torchvision's `ColorJitter`, drawn per image.

    Factors are uniform in [max(0, 1 - x), 1 + x], hue shifts in [-x, x] of the color circle. N is JITTER_NUMBERS.
    """
    widths_4 = np.array([brightness, contrast, saturation, hue])
    lows_4 = np.append(np.maximum(1 - widths_4[:3], 0), -hue)
    factors_B4 = lows_4 + (UNCHANGED + widths_4 - lows_4) * uniforms_BN[:, :4]
    return factors_B4, np.argsort(uniforms_BN[:, 4:], axis=1)


def draw_kernels(uniforms_B: FLOAT64, kernel_size: int, sigma: tuple[float, float]) -> FLOAT64:
    """Weights of a Gaussian with a standard deviation uniform in `sigma` pixels, sum one: kernels_BK."""
    distances_K = np.arange(kernel_size) - (kernel_size - 1) / 2
    kernels_BK: FLOAT64 = np.exp(-0.5 * (distances_K / between(uniforms_B, sigma)[:, None]) ** 2)
    kernels_BK /= kernels_BK.sum(axis=1, keepdims=True)
    return kernels_BK


def draw_erasing(
    uniforms_BN: FLOAT64, sizes_B2: INT64, p: float, scale: tuple[float, float], ratio: tuple[float, float]
) -> FLOAT64:
    """Boxes_B4 (top, left, height, width) in pixels to erase, of no pixels where not chosen; N is ERASING_NUMBERS.

    The distribution of torchvision's `RandomErasing`: up to 10 tries of an area uniform in `scale` (fractions of the
    image's) and a height / width log-uniform in `ratio`; nothing is erased when no box smaller than the image is found.
    """
    areas_BT = np.prod(sizes_B2, axis=1, keepdims=True) * between(uniforms_BN[:, :_TRIES], scale)
    ratios_BT = np.exp(between(uniforms_BN[:, _TRIES:-3], (np.log(ratio[0]), np.log(ratio[1]))))
    tries_BT2 = np.round(np.sqrt(np.stack([areas_BT * ratios_BT, areas_BT / ratios_BT], axis=2)))
    fits_BT = (tries_BT2 < sizes_B2[:, None]).all(axis=2)
    first_fit_B2 = tries_BT2[np.arange(len(sizes_B2)), fits_BT.argmax(axis=1)]
    corners_B2 = np.floor(uniforms_BN[:, -3:-1] * (sizes_B2 - first_fit_B2 + 1))
    chosen_B1 = fits_BT.any(axis=1, keepdims=True) & (uniforms_BN[:, -1:] < p)
    return np.where(chosen_B1, np.concatenate([corners_B2, first_fit_B2], axis=1), 0.0)
