"""Drawn parameters: torchvision's distributions, and no dependence on anything but the key."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from torchvision import transforms

from launcher.augment import draw
from launcher.augment.arrays import FLOAT64
from launcher.augment.sizes import exact_sizes
from launcher.errors import UserError
from launcher.recipe.augment import HorizontalFlip, RandomCrop, RandomResizedCrop, Rotation

NUM = 4000
IDS = np.arange(NUM, dtype=np.int64)


def uniforms(num: int) -> FLOAT64:
    return draw.draw_uniforms(7, 3, IDS, 0, num)


def kolmogorov_smirnov(first_N: FLOAT64, second_N: FLOAT64) -> float:
    """Largest distance of two empirical distribution functions, in units of sqrt(2 / N): 1.95 is p = 0.001."""
    points = np.concatenate([first_N, second_N])
    cumulated = [np.searchsorted(np.sort(x_N), points, side="right") / len(x_N) for x_N in (first_N, second_N)]
    return float(np.abs(cumulated[0] - cumulated[1]).max() * np.sqrt(len(first_N) / 2))


@pytest.mark.parametrize(
    ("size", "scale", "ratio"),
    [
        ((375, 500), (0.8, 1.0), (0.75, 1.33)),
        ((375, 500), (0.08, 1.0), (0.75, 4 / 3)),
        ((60, 100), (0.3, 1.0), (0.9, 1.1)),  # about one in twelve falls back
        ((40, 300), (0.5, 1.0), (0.75, 4 / 3)),  # all fall back
        ((300, 40), (0.5, 1.0), (0.75, 4 / 3)),
        ((7, 5), (0.01, 1.0), (0.5, 2.0)),
    ],
)
def test_random_resized_crop_has_torchvisions_distribution(
    size: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    sizes_B2 = exact_sizes(IDS[:, None], size)
    op = RandomResizedCrop(op="random_resized_crop", size=32, scale=scale, ratio=ratio)
    boxes_B4 = draw.random_resized_crop(op, uniforms, sizes_B2)
    assert (boxes_B4[:, :2] >= 0).all()
    assert (boxes_B4[:, 2:] >= 1).all()
    assert (boxes_B4[:, :2] + boxes_B4[:, 2:] <= size).all()
    torch.manual_seed(0)
    image = torch.empty(1, *size)
    expected_B4 = np.array([transforms.RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in IDS])
    for ours_B, theirs_B in zip(boxes_B4.T, expected_B4.T, strict=True):
        assert kolmogorov_smirnov(ours_B.astype(np.float64), theirs_B.astype(np.float64)) < 1.95


def test_kolmogorov_smirnov_finds_a_difference() -> None:
    assert kolmogorov_smirnov(uniforms(1)[:, 0], uniforms(1)[:, 0] * 0.9) > 1.95


def test_random_resized_crop_of_one_pixel_stays_inside() -> None:
    sizes_B2 = np.array([[1, 1], [1, 9], [9, 1]])
    op = RandomResizedCrop(op="random_resized_crop", size=32, scale=(1.0, 1.0), ratio=(3.0, 4.0))
    boxes_B4 = draw.random_resized_crop(op, partial(draw.draw_uniforms, 0, 0, IDS[:3], 0), sizes_B2)
    assert boxes_B4.tolist() == [[0, 0, 1, 1], [0, 2, 1, 4], [4, 0, 1, 1]]


def test_crop_offsets_are_uniform() -> None:
    sizes_B2 = exact_sizes(IDS[:, None], (10, 12))
    op = RandomCrop(op="random_crop", size=(8, 12), padding=1)
    offsets_B2 = draw.random_crop(op, uniforms, sizes_B2)
    tops, counts = np.unique(offsets_B2[:, 0], return_counts=True)
    assert tops.tolist() == [-1, 0, 1, 2, 3]
    assert np.abs(counts / NUM - 1 / 5).max() < 0.03
    assert np.unique(offsets_B2[:, 1]).tolist() == [-1, 0, 1]


def test_a_crop_larger_than_an_image_raises_user_error() -> None:
    with pytest.raises(UserError, match="32x32 pixels do not fit in an image of 20x28 with padding 2"):
        draw.random_crop(RandomCrop(op="random_crop", size=32, padding=2), uniforms, np.array([[64, 64], [20, 28]]))


def test_angles_and_flips_have_their_distributions() -> None:
    angles_B = draw.rotation(Rotation(op="rotation", degrees=15.0), uniforms, IDS)
    assert -15 <= angles_B.min() < -14.9 < 14.9 < angles_B.max() < 15
    assert kolmogorov_smirnov(angles_B, np.linspace(-15, 15, NUM)) < 1.95
    for p in (1e-9, 0.25, 0.5, 1.0):
        flips_B = draw.flip(HorizontalFlip(op="horizontal_flip", p=p), uniforms, IDS)
        assert abs(flips_B.mean() - p) <= 3.5 * np.sqrt(p * (1 - p) / NUM)


def test_numbers_differ_in_every_part_of_the_key() -> None:
    keys = [(7, 3, 5, 0), (3, 7, 5, 0), (7, 4, 5, 0), (7, 3, 6, 0), (7, 3, 5, 1)]
    numbers = [draw.draw_uniforms(seed, epoch, np.array([i]), position, 4) for seed, epoch, i, position in keys]
    assert len(np.unique(np.concatenate(numbers))) == 4 * len(keys)
