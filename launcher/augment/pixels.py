"""Operations that compute new pixels of images of one size: how their parameters are drawn and applied.

Parameters are one float64 row per image; those of an image that has not drawn the operation change nothing.

Shapes: B images, C = 3 channels, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from launcher.augment import blur, color
from launcher.augment import draw_color as colors
from launcher.augment import draw_warp as warps
from launcher.augment.arrays import FLOAT64, INT64
from launcher.augment.draw import between
from launcher.augment.draw_policy import draw_policy, rand_magnitudes, trivial_magnitudes
from launcher.augment.fuse import DrawnOp
from launcher.augment.groups import Grouped, apply_groups, apply_where, on_device, per_image
from launcher.augment.policy import apply_policy
from launcher.augment.warp import WarpMode, warp

Uniforms = Callable[[int], FLOAT64]
"""Numbers per image -> uniforms_BN."""


@dataclass(frozen=True)
class PixelOpSpec:
    """One operation, which changes no size: a row of PIXEL_OPS."""

    draw: Callable[[Any, Uniforms, INT64], FLOAT64]
    """(op of the recipe, uniforms, sizes_B2) -> parameters_BN."""
    apply: Callable[[Tensor, DrawnOp], Tensor]
    """(images_BCHW as in `color`, drawn op) -> images_BCHW, new ones or the same."""


def _draw_flag(op: Any, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """1 where the image is chosen: parameters_B."""
    return colors.draw_chosen(uniforms(1)[:, 0], op.p, 1.0, 0.0)


def _draw_jitter(op: Any, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Factors and order side by side: parameters_B8."""
    numbers_BN = uniforms(colors.JITTER_NUMBERS)
    drawn = colors.draw_jitter(numbers_BN, op.brightness, op.contrast, op.saturation, op.hue)
    return np.concatenate(drawn, axis=1)


def _draw_noise(op: Any, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """A key of 53 bits, which float64 holds exactly, and the standard deviation: parameters_B2."""
    keys_B1 = uniforms(1) * 2**53
    return np.concatenate([keys_B1, np.full_like(keys_B1, op.sigma)], axis=1)


def _draw_erasing(op: Any, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """The box and its color on the scale [0, 255]: parameters_B7."""
    boxes_B4 = colors.draw_erasing(uniforms(colors.ERASING_NUMBERS), sizes_B2, op.p, op.scale, op.ratio)
    color_3 = np.broadcast_to(np.asarray(op.value, dtype=np.float64) * color.WHITE, 3)
    return np.concatenate([boxes_B4, np.tile(color_3, (len(boxes_B4), 1))], axis=1)


def _draw_rand(op: Any, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Choices and magnitudes side by side: parameters_BN, N is twice the number of operations."""
    return np.concatenate(draw_policy(uniforms, rand_magnitudes(sizes_B2), op.num_ops, op.magnitude), axis=1)


def _draw_trivial(op: Any, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    return np.concatenate(draw_policy(uniforms, trivial_magnitudes(sizes_B2), 1, None), axis=1)


def _warp(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    coefficients_B8, mode = drawn.parameters.astype(np.float64), _mode(drawn)
    is_warped_B = (coefficients_B8 != warps.IDENTITY).any(axis=1)
    return apply_where(images_BCHW, is_warped_B, coefficients_B8, lambda images, values: warp(images, values, mode))


def _jitter(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    """The first adjustment of each image's order, then the second ..."""
    factors_B4, order_B4 = drawn.parameters[:, :4].astype(np.float64), drawn.parameters[:, 4:].astype(np.int64)
    for choices_B in order_B4.T:
        chosen_B = factors_B4[np.arange(len(factors_B4)), choices_B]
        is_changed_B = chosen_B != colors.UNCHANGED[choices_B]
        images_BCHW = apply_groups(images_BCHW, np.where(is_changed_B, choices_B, -1), chosen_B, _JITTERS)
    return images_BCHW


def _per_value(function: Grouped, unchanged: float) -> Callable[[Tensor, DrawnOp], Tensor]:
    """An `apply` for one number per image; images whose number is `unchanged` stay as they are."""

    def apply(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
        values_B = drawn.parameters.astype(np.float64)
        return apply_where(images_BCHW, values_B != unchanged, values_B, function)

    return apply


def _blur(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    return blur.gaussian_blur(images_BCHW, on_device(drawn.parameters.astype(np.float32), images_BCHW))


def _noise(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    keys_B, sigmas_B = drawn.parameters[:, 0].astype(np.int64), drawn.parameters[:, 1].astype(np.float32)
    return blur.add_noise(images_BCHW, on_device(keys_B, images_BCHW), on_device(sigmas_B, images_BCHW))


def _erase(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    values_B7 = on_device(drawn.parameters.astype(np.float32), images_BCHW)
    return blur.erase(images_BCHW, values_B7[:, :4], values_B7[:, 4:])


def _policy(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    choices_BM, magnitudes_BM = np.split(drawn.parameters.astype(np.float64), 2, axis=1)
    return apply_policy(images_BCHW, choices_BM.astype(np.int64), magnitudes_BM, _mode(drawn))


def _mode(drawn: DrawnOp) -> WarpMode:
    assert drawn.interpolation != "bicubic"
    return drawn.interpolation


_JITTERS = [
    per_image(function)
    for function in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation, color.adjust_hue)
]
"""In the order of `draw_color.JITTERS`."""

PIXEL_OPS: dict[str, PixelOpSpec] = {
    "affine": PixelOpSpec(
        lambda op, uniforms, sizes_B2: warps.draw_affine(
            uniforms(warps.AFFINE_NUMBERS), sizes_B2, op.degrees, op.translate, op.scale, op.shear
        ),
        _warp,
    ),
    "perspective": PixelOpSpec(
        lambda op, uniforms, sizes_B2: warps.draw_perspective(
            uniforms(warps.PERSPECTIVE_NUMBERS), sizes_B2, op.distortion_scale, op.p
        ),
        _warp,
    ),
    "color_jitter": PixelOpSpec(_draw_jitter, _jitter),
    "grayscale": PixelOpSpec(_draw_flag, _per_value(lambda images, values: color.grayscale(images), 0.0)),
    "gamma": PixelOpSpec(
        lambda op, uniforms, sizes_B2: between(uniforms(1)[:, 0], op.gamma),
        _per_value(per_image(color.adjust_gamma), 1.0),
    ),
    "solarize": PixelOpSpec(
        lambda op, uniforms, sizes_B2: colors.draw_chosen(uniforms(1)[:, 0], op.p, op.threshold * color.WHITE, np.inf),
        _per_value(per_image(color.solarize), np.inf),
    ),
    "posterize": PixelOpSpec(
        lambda op, uniforms, sizes_B2: colors.draw_chosen(uniforms(1)[:, 0], op.p, op.bits, 8.0),
        _per_value(per_image(color.posterize), 8.0),
    ),
    "autocontrast": PixelOpSpec(_draw_flag, _per_value(lambda images, values: color.autocontrast(images), 0.0)),
    "equalize": PixelOpSpec(_draw_flag, _per_value(lambda images, values: color.equalize(images), 0.0)),
    "sharpness": PixelOpSpec(
        lambda op, uniforms, sizes_B2: colors.draw_chosen(uniforms(1)[:, 0], op.p, op.factor, 1.0),
        _per_value(per_image(color.adjust_sharpness), 1.0),
    ),
    "gaussian_blur": PixelOpSpec(
        lambda op, uniforms, sizes_B2: colors.draw_kernels(uniforms(1)[:, 0], op.kernel_size, op.sigma), _blur
    ),
    "gaussian_noise": PixelOpSpec(_draw_noise, _noise),
    "random_erasing": PixelOpSpec(_draw_erasing, _erase),
    "rand_augment": PixelOpSpec(_draw_rand, _policy),
    "trivial_augment": PixelOpSpec(_draw_trivial, _policy),
}
