"""Neutral parameters, flat and tiny images. Pixels are compared in `test_parity`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from launcher.augment import color
from tests.augment.parity import IMAGES_BCHW

IMAGES = IMAGES_BCHW.float()
LAYOUTS = [torch.contiguous_format, torch.channels_last]

UNCHANGED: list[tuple[Callable[[Tensor, Tensor], Tensor], float, float]] = [
    (color.adjust_brightness, 1.0, 0.0),
    (color.adjust_contrast, 1.0, 0.0),
    (color.adjust_saturation, 1.0, 0.0),
    (color.adjust_sharpness, 1.0, 0.0),
    (color.adjust_hue, 0.0, 1e-3),
    (color.adjust_hue, 1.0, 1e-3),
    (color.adjust_gamma, 1.0, 1e-3),
    (color.solarize, float("inf"), 0.0),
    (color.posterize, 8.0, 0.0),
]
"""Function, the parameter that changes nothing, and the tolerance in levels."""


@pytest.mark.parametrize(("function", "value", "levels"), UNCHANGED)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_neutral_parameters_change_nothing(
    function: Callable[[Tensor, Tensor], Tensor], value: float, levels: float, layout: torch.memory_format
) -> None:
    images_BCHW = IMAGES.contiguous(memory_format=layout)
    results_BCHW = function(images_BCHW, torch.full((2,), value))
    assert float((results_BCHW - IMAGES).abs().max()) <= levels
    assert torch.equal(images_BCHW, IMAGES)


PLAIN: list[tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = [
    (color.autocontrast, reference.autocontrast),
    (color.equalize, reference.equalize),
    (lambda images: color.adjust_hue(images, torch.tensor([0.3])), lambda image: reference.adjust_hue(image, 0.3)),
    (
        lambda images: color.adjust_sharpness(images, torch.tensor([2.0])),
        lambda image: reference.adjust_sharpness(image, 2.0),
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), PLAIN)
@pytest.mark.parametrize("size", [(1, 1), (2, 5), (3, 3)])
@pytest.mark.parametrize("level", [0, 77, 255])
def test_flat_and_tiny_images_equal_torchvisions(
    ours: Callable[[Tensor], Tensor], theirs: Callable[[Tensor], Tensor], size: tuple[int, int], level: int
) -> None:
    image = torch.full((1, 3, *size), level, dtype=torch.uint8)
    assert torch.equal(ours(image.float()).round(), theirs(image).float())


@pytest.mark.parametrize("size", [(2, 2), (20, 30), (16, 16)])
def test_few_pixels_equalize_as_torchvisions(size: tuple[int, int]) -> None:
    images_BCHW = IMAGES_BCHW[:, :, : size[0], : size[1]] // 8
    assert torch.equal(color.equalize(images_BCHW.float()), reference.equalize(images_BCHW).float())


def test_fractional_levels_are_rounded_first() -> None:
    wavering = IMAGES + 0.4 * torch.tensor([1.0, -1.0])[:, None, None, None]
    assert torch.equal(color.equalize(wavering), color.equalize(IMAGES))
    bits_B = torch.full((2,), 3.0)
    assert torch.equal(color.posterize(wavering, bits_B), color.posterize(IMAGES, bits_B))
