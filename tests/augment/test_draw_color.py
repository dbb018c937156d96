"""Parameters of colors, blur and erasing: torchvision's distributions, and images that are not chosen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from launcher.augment import draw_color
from launcher.recipe.augment_pixels import ColorJitter, GaussianBlur, RandomErasing
from tests.augment.test_draw import kolmogorov_smirnov
from tests.augment.test_draw_warp import NUM, SIZE, SIZES, theirs, uniforms


def test_jitter_has_torchvisions_distribution() -> None:
    op = ColorJitter(op="color_jitter", brightness=0.4, contrast=1.5, saturation=0.8, hue=0.2)
    factors_B4, order_B4 = np.split(draw_color.color_jitter(op, uniforms, SIZES), 2, axis=1)
    drawn = theirs(v2.ColorJitter(0.4, 1.5, 0.8, 0.2))
    for name, factors_B in zip(draw_color.JITTERS, factors_B4.T, strict=True):
        assert kolmogorov_smirnov(factors_B, np.array([each[f"{name}_factor"] for each in drawn])) < 1.95
    _, counts = np.unique(order_B4, axis=0, return_counts=True)
    assert len(counts) == 24
    assert ((counts - NUM / 24) ** 2 / (NUM / 24)).sum() < 49.7  # chi-square of 23 degrees of freedom, p = 0.001


def test_jitter_of_no_width_changes_nothing() -> None:
    parameters_B8 = draw_color.color_jitter(ColorJitter(op="color_jitter"), uniforms, SIZES)
    assert np.array_equal(parameters_B8[:, :4], np.tile(draw_color.UNCHANGED, (NUM, 1)))


@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
def test_p_is_the_share_of_chosen_images(p: float) -> None:
    chosen_B = draw_color.choose(p, uniforms, 3.0, 8.0)
    assert set(chosen_B.tolist()) == {3.0, 8.0} - ({8.0} if p == 1 else set())
    assert abs((chosen_B == 3).mean() - p) <= 3.5 * np.sqrt(p * (1 - p) / NUM)


@pytest.mark.parametrize("kernel_size", [1, 3, 23])
def test_kernels_equal_torchvisions(kernel_size: int) -> None:
    op = GaussianBlur(op="gaussian_blur", kernel_size=kernel_size, sigma=(0.1, 2.1))
    kernels_BK = draw_color.gaussian_blur(op, lambda num: np.array([[0.0], [0.5], [0.999]]), SIZES)
    for kernel_K, sigma in zip(kernels_BK, (0.1, 1.1, 2.098), strict=True):
        arguments = kernel_size, sigma, torch.float64, torch.device("cpu")
        expected = v2.functional._misc._get_gaussian_kernel1d(*arguments)
        np.testing.assert_allclose(kernel_K, expected.numpy(), atol=1e-12)


@pytest.mark.parametrize(
    ("scale", "ratio"), [((0.02, 0.33), (0.3, 3.3)), ((0.5, 1.0), (0.2, 5.0)), ((0.9, 1.0), (4.0, 5.0))]
)
def test_erasing_has_torchvisions_distribution(scale: tuple[float, float], ratio: tuple[float, float]) -> None:
    op = RandomErasing(op="random_erasing", p=1.0, scale=scale, ratio=ratio)
    boxes_B4 = draw_color.random_erasing(op, uniforms, SIZES)[:, :4]
    assert (boxes_B4 >= 0).all()
    assert (boxes_B4[:, :2] + boxes_B4[:, 2:] <= SIZE).all()
    drawn = theirs(v2.RandomErasing(p=1.0, scale=scale, ratio=ratio))
    expected_B4 = np.array(
        [[each[key] if each["v"] is not None else 0 for key in "ijhw"] for each in drawn], dtype=np.float64
    )
    for ours_B, theirs_B in zip(boxes_B4.T, expected_B4.T, strict=True):
        assert kolmogorov_smirnov(ours_B, theirs_B) < 1.95


def test_p_is_the_share_of_erased_images() -> None:
    op = RandomErasing(op="random_erasing", p=0.4, scale=(0.1, 0.2), ratio=(0.5, 2.0))
    boxes_B4 = draw_color.random_erasing(op, uniforms, SIZES)[:, :4]
    assert abs((boxes_B4 > 0).any(axis=1).mean() - 0.4) < 0.06
