"""Affine and perspective warps: coefficients of a batch as functions of uniform numbers.

The pixel whose center is at (x, y) of the result, both from the top left corner of the image, comes from

    ((a x + b y + c) / (g x + h y + 1), (d x + e y + f) / (g x + h y + 1)).

Pure NumPy, as `draw`. Shapes: B images; B2 (x, y); B8 the coefficients a to h, float64.
"""

from __future__ import annotations

import numpy as np

from launcher.augment.arrays import FLOAT64, INT64, Uniforms
from launcher.augment.draw import between
from launcher.recipe.augment_pixels import Affine, Perspective

IDENTITY: FLOAT64 = np.array([1, 0, 0, 0, 1, 0, 0, 0], dtype=np.float64)
"""Coefficients that leave an image as it is."""


def affine_coefficients(
    angles_B: FLOAT64, moves_B2: FLOAT64, scales_B: FLOAT64, shears_B2: FLOAT64, centers_B2: FLOAT64
) -> FLOAT64:
    """Coefficients_B8 that rotate, scale and shear about the centers, then move: those of torchvision's `affine`.

    Angles and shears are in degrees, positive angles are clockwise (as there); moves and centers in pixels.
    """
    angle_B, shear_x_B, shear_y_B = np.deg2rad(angles_B), np.deg2rad(shears_B2[:, 0]), np.deg2rad(shears_B2[:, 1])
    cos_B, sin_B = np.cos(angle_B - shear_y_B) / np.cos(shear_y_B), np.sin(angle_B - shear_y_B) / np.cos(shear_y_B)
    # Forward is ((cos, x), (sin, y)), of determinant one; `back` is its inverse.
    x_B, y_B = -cos_B * np.tan(shear_x_B) - np.sin(angle_B), -sin_B * np.tan(shear_x_B) + np.cos(angle_B)
    back_B22 = np.array([[y_B, -x_B], [-sin_B, cos_B]]).transpose(2, 0, 1) / scales_B[:, None, None]
    shift_B2 = centers_B2 - (back_B22 @ (centers_B2 + moves_B2)[:, :, None])[:, :, 0]
    coefficients_B8 = np.zeros((len(angles_B), 8))
    coefficients_B8[:, :6] = np.concatenate([back_B22, shift_B2[:, :, None]], axis=2).reshape(-1, 6)
    return coefficients_B8


def affine(op: Affine, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Coefficients_B8 with the distribution of torchvision's `RandomAffine`, about the center."""
    uniforms_B6 = uniforms(6)
    widths_heights_B2 = sizes_B2[:, ::-1].astype(np.float64)
    moves_B2 = np.round((2 * uniforms_B6[:, 1:3] - 1) * np.array(op.translate) * widths_heights_B2)
    return affine_coefficients(
        between(uniforms_B6[:, 0], (-op.degrees, op.degrees)),
        moves_B2,
        between(uniforms_B6[:, 3], op.scale),
        (2 * uniforms_B6[:, 4:] - 1) * np.array(op.shear),
        widths_heights_B2 / 2,
    )


def perspective(op: Perspective, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """Coefficients_B8 with the distribution of torchvision's `RandomPerspective`.

    Each corner moves inwards by up to `distortion_scale` of half the side. Images not chosen keep IDENTITY.
    """
    uniforms_B9 = uniforms(9)
    widths_heights_B12 = sizes_B2[:, None, ::-1]
    bounds_B12 = np.floor(op.distortion_scale * (widths_heights_B12 // 2)) + 1
    starts_B42 = _CORNERS * (widths_heights_B12 - 1)
    inwards_B42 = np.floor(uniforms_B9[:, :8].reshape(-1, 4, 2) * bounds_B12)
    # torchvision draws right and bottom ends from [side - bound, side).
    ends_B42 = np.where(_CORNERS == 0, inwards_B42, widths_heights_B12 - bounds_B12 + inwards_B42)
    return np.where(uniforms_B9[:, 8:] < op.p, _through_corners(starts_B42.astype(np.float64), ends_B42), IDENTITY)


_CORNERS = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])


def _through_corners(starts_B42: FLOAT64, ends_B42: FLOAT64) -> FLOAT64:
    """Coefficients_B8 that map each start to its end: eight linear equations per image, four for x and four for y.

    Solved by the pseudo-inverse, as corners drawn on one line make them dependent.
    """
    ones_B41, zeros_B43 = np.ones_like(ends_B42[..., :1]), np.zeros((len(ends_B42), 4, 3))
    ends_B43 = np.concatenate([ends_B42, ones_B41], axis=2)
    x_B48 = np.concatenate([ends_B43, zeros_B43, -starts_B42[..., :1] * ends_B42], axis=2)
    y_B48 = np.concatenate([zeros_B43, ends_B43, -starts_B42[..., 1:] * ends_B42], axis=2)
    known_B8 = np.concatenate([starts_B42[..., 0], starts_B42[..., 1]], axis=1)
    solved_B81: FLOAT64 = np.linalg.pinv(np.concatenate([x_B48, y_B48], axis=1)) @ known_B8[:, :, None]
    return solved_B81[:, :, 0]
