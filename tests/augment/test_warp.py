"""Warps that change nothing, and those of different images in one batch. Pixels are compared in `test_parity`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from launcher.augment.draw_warp import IDENTITY, affine_coefficients, perspective
from launcher.augment.pixels import WarpMode, warp
from launcher.recipe.augment_pixels import Perspective
from tests.augment.parity import HEIGHT, IMAGES_BCHW, WIDTH

IMAGES = IMAGES_BCHW.float()


@pytest.mark.parametrize(("mode", "levels"), [("nearest", 0.0), ("bilinear", 0.02)])
def test_identity_coefficients_change_nothing(mode: WarpMode, levels: float) -> None:
    warped_BCHW = warp(IMAGES, np.tile(IDENTITY, (2, 1)), mode)
    assert float((warped_BCHW - IMAGES).abs().max()) <= levels


def test_rotation_by_180_degrees_and_a_move_equal_indexing() -> None:
    angles, moves, middle = np.array([180.0, 0.0]), np.array([[0.0, 0.0], [5.0, -3.0]]), [WIDTH / 2, HEIGHT / 2]
    zeros = np.zeros((2, 2))
    coefficients = affine_coefficients(angles, moves, np.ones(2), zeros, np.tile(middle, (2, 1)))
    rotated, moved = warp(IMAGES, coefficients, "nearest")
    assert torch.equal(rotated, IMAGES[0].flip(1, 2))
    assert torch.equal(moved[:, :-3, 5:], IMAGES[1][:, 3:, :-5])
    assert not moved[:, -3:].any()
    assert not moved[:, :, :5].any()


def test_affine_and_perspective_images_may_share_a_batch() -> None:
    op, random = Perspective(op="perspective", p=1.0), np.random.default_rng(0).random
    coefficients = perspective(op, lambda num: random((2, num)), np.tile([[HEIGHT, WIDTH]], (2, 1)))
    coefficients[0] = IDENTITY
    both_BCHW = warp(IMAGES, coefficients, "bilinear")
    for row in (0, 1):
        alone_BCHW = warp(IMAGES[row : row + 1], coefficients[row : row + 1], "bilinear")
        torch.testing.assert_close(alone_BCHW[0], both_BCHW[row], atol=0.02, rtol=0)
