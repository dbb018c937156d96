"""Coefficients of warps: torchvision's distributions and limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from launcher.augment import draw_warp
from launcher.augment.arrays import FLOAT64
from launcher.augment.draw import draw_uniforms
from launcher.recipe.augment_pixels import Affine, Perspective
from tests.augment.test_draw import kolmogorov_smirnov

NUM = 1000
SIZE = (60, 100)
SIZES = np.tile([SIZE], (NUM, 1))
IMAGE = torch.zeros(3, *SIZE)


def uniforms(num: int) -> FLOAT64:
    return draw_uniforms(7, 3, np.arange(NUM), 0, num)


def theirs(transform: v2.Transform) -> list[dict[str, object]]:
    torch.manual_seed(0)
    return [transform.make_params([IMAGE]) for _ in range(NUM)]


def same_distribution(ours_BN: FLOAT64, theirs_BN: FLOAT64) -> bool:
    pairs = zip(ours_BN.T, theirs_BN.T, strict=True)
    return all(kolmogorov_smirnov(ours_B, theirs_B) < 1.95 for ours_B, theirs_B in pairs)


def test_affine_has_torchvisions_distribution() -> None:
    op = Affine(op="affine", degrees=30.0, translate=(0.1, 0.3), scale=(0.5, 1.5), shear=(20.0, 10.0))
    ours_B8 = draw_warp.affine(op, uniforms, SIZES)
    transform = v2.RandomAffine(30, (0.1, 0.3), (0.5, 1.5), (-20, 20, -10, 10))
    drawn = theirs(transform)
    angles, moves, scales, shears = (
        np.array([each[key] for each in drawn], dtype=np.float64) for key in ("angle", "translate", "scale", "shear")
    )
    middles = np.tile([SIZE[1] / 2, SIZE[0] / 2], (NUM, 1))
    theirs_B8 = draw_warp.affine_coefficients(angles, moves, scales, shears, middles)
    assert same_distribution(ours_B8[:, :6], theirs_B8[:, :6])
    assert not ours_B8[:, 6:].any()


def test_moves_are_whole_pixels_within_their_limits() -> None:
    ours_B8 = draw_warp.affine(Affine(op="affine", degrees=0.0, translate=(0.1, 0.3)), uniforms, SIZES)
    for column, farthest in ((2, 10), (5, 18)):
        assert sorted(set((-ours_B8[:, column]).round(9).tolist())) == list(range(-farthest, farthest + 1))


def test_affine_without_ranges_draws_identity() -> None:
    ours_B8 = draw_warp.affine(Affine(op="affine", degrees=0.0), uniforms, SIZES)
    assert np.array_equal(ours_B8, np.tile(draw_warp.IDENTITY, (NUM, 1)))


@pytest.mark.parametrize("distortion_scale", [0.1, 0.5, 0.9])
def test_perspective_has_torchvisions_distribution(distortion_scale: float) -> None:
    op = Perspective(op="perspective", distortion_scale=distortion_scale, p=1.0)
    ours_B8 = draw_warp.perspective(op, uniforms, SIZES)
    drawn = theirs(v2.RandomPerspective(distortion_scale, p=1.0))
    assert same_distribution(ours_B8, np.array([each["coefficients"] for each in drawn]))


def test_p_is_the_share_of_warped_images() -> None:
    ours_B8 = draw_warp.perspective(Perspective(op="perspective", distortion_scale=0.9, p=0.3), uniforms, SIZES)
    assert abs((ours_B8 != draw_warp.IDENTITY).any(axis=1).mean() - 0.3) < 0.05


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 3)])
def test_tiny_images_and_corners_on_one_line_give_finite_coefficients(size: tuple[int, int]) -> None:
    op = Perspective(op="perspective", distortion_scale=1.0, p=1.0)
    ours_B8 = draw_warp.perspective(op, uniforms, np.tile([size], (NUM, 1)))
    assert np.isfinite(ours_B8).all()


def test_coefficients_map_corners_to_corners() -> None:
    starts, ends = [[0, 0], [99, 0], [99, 59], [0, 59]], [[3, 5], [90, 1], [80, 50], [10, 40]]
    coefficients = v2.functional._geometry._get_perspective_coeffs(starts, ends)
    ours_B8 = draw_warp._through_corners(np.array([starts], dtype=np.float64), np.array([ends], dtype=np.float64))
    torch.testing.assert_close(torch.tensor(ours_B8[0]), torch.tensor(coefficients, dtype=torch.float64))
