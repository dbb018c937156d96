"""Operations that compute new pixels of images of one size: how they are applied.

Parameters are one float64 row per image; those of an image that has not drawn the operation change nothing.

Shapes: B images, C = 3 channels, H x W pixels; B8 coefficients as in `draw_warp`; G images that drew one operation of a
policy; M operations of a policy, one after another.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from launcher.augment import blur, color
from launcher.augment.arrays import FLOAT64, INT64
from launcher.augment.draw_color import UNCHANGED, WHITE
from launcher.augment.draw_policy import OPERATIONS
from launcher.augment.draw_warp import IDENTITY, affine_coefficients
from launcher.augment.fuse import DrawnOp
from launcher.augment.groups import Grouped, apply_groups, apply_where, on_device, per_image

Apply = Callable[[Tensor, DrawnOp], Tensor]
"""(images_BCHW as in `color`, drawn op) -> images_BCHW, new ones or the same."""
WarpMode = Literal["nearest", "bilinear"]


def warp(images_BCHW: Tensor, coefficients_B8: FLOAT64, mode: WarpMode) -> Tensor:
    """Each pixel from its source by the coefficients, black from outside the image: images_BCHW.

    The numbers of torchvision's `affine` and `perspective` with their default fill. As in `ops.rotate`, linear parts
    are a sum of one float64 term per row and one per column, rounded last.
    """
    height, width = images_BCHW.shape[2:]
    # Coefficients are sent and the lines made there: as they are, they would be more than `groups.PAGEABLE_BYTES`.
    a, b, c, d, e, f, g, h = on_device(coefficients_B8.T, images_BCHW)[:, :, None].unbind()
    x_W, y_H = (torch.arange(num, dtype=torch.float64, device=a.device) + 0.5 for num in (width, height))
    # From pixels to grid_sample's [-1, 1], the denominator multiplied in: 2 x / W - 1 = (2 num / W - den) / den.
    cols = [2 * a / width * x_W - g * x_W, 2 * d / height * x_W - g * x_W, g * x_W]
    rows = [2 * (b * y_H + c) / width - (h * y_H + 1), 2 * (e * y_H + f) / height - (h * y_H + 1), h * y_H + 1]
    cols_BW3, rows_BH3 = torch.stack(cols, dim=2).float(), torch.stack(rows, dim=2).float()
    grid_BHW2 = rows_BH3[:, :, None, :2] + cols_BW3[:, None, :, :2]
    if coefficients_B8[:, 6:].any():
        grid_BHW2 /= rows_BH3[:, :, None, 2:] + cols_BW3[:, None, :, 2:]
    return grid_sample(images_BCHW, grid_BHW2, mode=mode, padding_mode="zeros", align_corners=False)


def _warp(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    is_warped_B = (drawn.parameters != IDENTITY).any(axis=1)
    return apply_where(images_BCHW, is_warped_B, drawn.parameters, partial(warp, mode=_mode(drawn)))


def _jitter(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    """The first adjustment of each image's order, then the second ..."""
    factors_B4, order_B4 = drawn.parameters[:, :4], drawn.parameters[:, 4:].astype(np.int64)
    for choices_B in order_B4.T:
        chosen_B = factors_B4[np.arange(len(factors_B4)), choices_B]
        is_changed_B = chosen_B != UNCHANGED[choices_B]
        images_BCHW = apply_groups(images_BCHW, np.where(is_changed_B, choices_B, -1), chosen_B, _JITTERS)
    return images_BCHW


def _per_value(function: Grouped, unchanged: float) -> Apply:
    """For one number per image; images whose number is `unchanged` stay as they are."""
    return lambda images_BCHW, drawn: apply_where(
        images_BCHW, drawn.parameters != unchanged, drawn.parameters, function
    )


def _blur(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    return blur.gaussian_blur(images_BCHW, on_device(drawn.parameters.astype(np.float32), images_BCHW))


def _noise(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    keys_B, sigmas_B = drawn.parameters[:, 0].astype(np.int64), drawn.parameters[:, 1].astype(np.float32)
    return blur.add_noise(images_BCHW, on_device(keys_B, images_BCHW), on_device(sigmas_B, images_BCHW))


def _erase(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    values_B7 = on_device(drawn.parameters.astype(np.float32), images_BCHW)
    return blur.erase(images_BCHW, values_B7[:, :4], values_B7[:, 4:])


def _policy(images_BCHW: Tensor, drawn: DrawnOp) -> Tensor:
    choices_BM, magnitudes_BM = np.split(drawn.parameters, 2, axis=1)
    return apply_policy(images_BCHW, choices_BM.astype(np.int64), magnitudes_BM, _mode(drawn))


def apply_policy(images_BCHW: Tensor, choices_BM: INT64, magnitudes_BM: FLOAT64, mode: WarpMode) -> Tensor:
    """Each image through its own M operations: the numbers of torchvision's policies, not rounded to whole levels.

    Choices are rows of OPERATIONS, magnitudes as in `draw_policy`.
    """
    assert OPERATIONS[0] == "identity"
    functions = [_POLICY_OPS.get(name) or partial(_warp_by, name, mode) for name in OPERATIONS[1:]]
    for choices_B, magnitudes_B in zip(choices_BM.T, magnitudes_BM.T, strict=True):
        images_BCHW = apply_groups(images_BCHW, choices_B - 1, magnitudes_B, functions)
    return images_BCHW


_POLICY_OPS: dict[str, Grouped] = {
    "brightness": per_image(lambda images, values_G: color.adjust_brightness(images, 1 + values_G)),
    "color": per_image(lambda images, values_G: color.adjust_saturation(images, 1 + values_G)),
    "contrast": per_image(lambda images, values_G: color.adjust_contrast(images, 1 + values_G)),
    "sharpness": per_image(lambda images, values_G: color.adjust_sharpness(images, 1 + values_G)),
    "posterize": per_image(color.posterize),
    "solarize": lambda images, values_G: per_image(color.solarize)(images, WHITE * values_G),
    "autocontrast": lambda images, values_G: color.autocontrast(images),
    "equalize": lambda images, values_G: color.equalize(images),
}


def _warp_by(name: str, mode: WarpMode, images_GCHW: Tensor, magnitudes_G: FLOAT64) -> Tensor:
    """Shears are about the top left corner, translations are of whole pixels."""
    height, width = images_GCHW.shape[2:]
    zeros_G, zeros_G2 = np.zeros_like(magnitudes_G), np.zeros((len(magnitudes_G), 2))
    angles_G, moves_G2, shears_G2, centers_G2 = zeros_G, zeros_G2, zeros_G2, zeros_G2
    along_G2 = np.stack([magnitudes_G, zeros_G] if name.endswith("_x") else [zeros_G, magnitudes_G], axis=1)
    if name == "rotate":
        # Counter-clockwise, unlike in `affine_coefficients`.
        angles_G, centers_G2 = -magnitudes_G, np.tile([width / 2, height / 2], (len(magnitudes_G), 1))
    elif name.startswith("shear"):
        shears_G2 = np.rad2deg(np.arctan(along_G2))
    else:
        moves_G2 = np.trunc(along_G2)
    coefficients_G8 = affine_coefficients(angles_G, moves_G2, np.ones_like(magnitudes_G), shears_G2, centers_G2)
    return warp(images_GCHW, coefficients_G8, mode)


def _mode(drawn: DrawnOp) -> WarpMode:
    assert drawn.interpolation != "bicubic"
    return drawn.interpolation


_JITTERS = [
    per_image(function)
    for function in (color.adjust_brightness, color.adjust_contrast, color.adjust_saturation, color.adjust_hue)
]
"""In the order of `draw_color.JITTERS`."""

PIXEL_OPS: dict[str, Apply] = {
    "affine": _warp,
    "perspective": _warp,
    "color_jitter": _jitter,
    "grayscale": _per_value(lambda images, values: color.grayscale(images), 0.0),
    "gamma": _per_value(per_image(color.adjust_gamma), 1.0),
    "solarize": _per_value(per_image(color.solarize), np.inf),
    "posterize": _per_value(per_image(color.posterize), 8.0),
    "autocontrast": _per_value(lambda images, values: color.autocontrast(images), 0.0),
    "equalize": _per_value(lambda images, values: color.equalize(images), 0.0),
    "sharpness": _per_value(per_image(color.adjust_sharpness), 1.0),
    "gaussian_blur": _blur,
    "gaussian_noise": _noise,
    "random_erasing": _erase,
    "rand_augment": _policy,
    "trivial_augment": _policy,
}
