"""The operations of RandAugment and TrivialAugment, each on the images that drew it.

Shapes: B images, C = 3 channels, H x W pixels; G images that drew one operation; M operations one after another.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from launcher.augment import color
from launcher.augment.arrays import FLOAT64, INT64
from launcher.augment.draw_policy import OPERATIONS
from launcher.augment.draw_warp import affine_coefficients
from launcher.augment.groups import Grouped, apply_groups, per_image
from launcher.augment.warp import WarpMode, warp


def apply_policy(images_BCHW: Tensor, choices_BM: INT64, magnitudes_BM: FLOAT64, mode: WarpMode) -> Tensor:
    """Each image through its own M operations: the numbers of torchvision's policies, not rounded to whole levels.

    Choices are rows of OPERATIONS, magnitudes as in `draw_policy`.
    """
    assert OPERATIONS[0] == "identity"
    functions = [_GROUPED[name] if name in _GROUPED else _warped(name, mode) for name in OPERATIONS[1:]]
    for choices_B, magnitudes_B in zip(choices_BM.T, magnitudes_BM.T, strict=True):
        images_BCHW = apply_groups(images_BCHW, choices_B - 1, magnitudes_B, functions)
    return images_BCHW


_GROUPED: dict[str, Grouped] = {
    "brightness": per_image(lambda images, values_G: color.adjust_brightness(images, 1 + values_G)),
    "color": per_image(lambda images, values_G: color.adjust_saturation(images, 1 + values_G)),
    "contrast": per_image(lambda images, values_G: color.adjust_contrast(images, 1 + values_G)),
    "sharpness": per_image(lambda images, values_G: color.adjust_sharpness(images, 1 + values_G)),
    "posterize": per_image(color.posterize),
    "solarize": lambda images, values_G: per_image(color.solarize)(images, color.WHITE * values_G),
    "autocontrast": lambda images, values_G: color.autocontrast(images),
    "equalize": lambda images, values_G: color.equalize(images),
}


def _warped(name: str, mode: WarpMode) -> Grouped:
    def apply(images_GCHW: Tensor, magnitudes_G: FLOAT64) -> Tensor:
        height, width = images_GCHW.shape[2:]
        return warp(images_GCHW, _coefficients(name, magnitudes_G, height, width), mode)

    return apply


def _coefficients(name: str, magnitudes_G: FLOAT64, height: int, width: int) -> FLOAT64:
    """coefficients_G8 of these magnitudes: shears about the top left corner, translations of whole pixels."""
    zeros_G, ones_G, zeros_G2 = (
        np.zeros_like(magnitudes_G),
        np.ones_like(magnitudes_G),
        np.zeros((len(magnitudes_G), 2)),
    )
    angles_G, moves_G2, shears_G2, centers_G2 = zeros_G, zeros_G2, zeros_G2, zeros_G2
    along_G2 = np.stack([magnitudes_G, zeros_G] if name.endswith("_x") else [zeros_G, magnitudes_G], axis=1)
    if name == "rotate":
        # Counter-clockwise, unlike in `affine_coefficients`.
        angles_G, centers_G2 = -magnitudes_G, np.tile([width / 2, height / 2], (len(magnitudes_G), 1))
    elif name.startswith("shear"):
        shears_G2 = np.rad2deg(np.arctan(along_G2))
    else:
        moves_G2 = np.trunc(along_G2)
    return affine_coefficients(angles_G, moves_G2, ones_G, shears_G2, centers_G2)
