"""Each operation against torchvision (float and uint8) and Pillow, for one batch of photographs of six sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from launcher.augment import draw, ops
from launcher.augment.arrays import INT64
from launcher.augment.fuse import Window, crop_window, whole_window
from launcher.augment.ops import Interpolation
from launcher.augment.sizes import exact_sizes, resized_sizes
from launcher.recipe.augment import RandomCrop
from tests.augment.photographs import load_photographs, pack, worst_difference

PHOTOGRAPHS = load_photographs()
CANVAS, SIZES = pack(PHOTOGRAPHS)
FLOAT_LEVELS = 0.02
"""Allowed difference from torchvision's float path, in levels of 255: both are float32, in a different order."""
BYTE_LEVELS = 1.0
"""Allowed difference from a uint8 path, which rounds (twice, in a separable resize)."""


def lines(window: Window) -> tuple[Tensor, Tensor]:
    return torch.tensor(window.rows_Bh).clamp(min=0), torch.tensor(window.cols_Bw).clamp(min=0)


def blackened(images_BCHW: Tensor, window: Window) -> Tensor:
    return ops.blacken(images_BCHW, torch.tensor(window.rows_Bh >= 0), torch.tensor(window.cols_Bw >= 0))


def resampled(boxes_B4: INT64, sizes_B2: INT64, mode: Interpolation = "bilinear") -> Tensor:
    window = whole_window(sizes_B2)
    parameters = torch.tensor(boxes_B4), torch.tensor(sizes_B2)
    return blackened(ops.resample(CANVAS.float(), *parameters, *lines(window), mode), window)


def seen_through(window: Window) -> Tensor:
    return blackened(ops.take(CANVAS, *lines(window)), window).float()


@pytest.mark.parametrize("size", [256, 31, 700, (256, 256), (100, 333), (640, 24), (1, 1)])
def test_resize_equals_torchvision(size: int | tuple[int, int]) -> None:
    resized_BCHW = resampled(draw.whole_boxes(SIZES), resized_sizes(SIZES, size))
    target = [size] if isinstance(size, int) else list(size)
    expected = [reference.resize(image.float(), target, antialias=True) for image in PHOTOGRAPHS]
    assert worst_difference(resized_BCHW, expected) <= FLOAT_LEVELS
    if size != (1, 1):  # torch 2.14 fails on uint8 there: an internal assertion in UpSampleKernelAVXAntialias.h
        expected = [reference.resize(image, target, antialias=True) for image in PHOTOGRAPHS]
        assert worst_difference(resized_BCHW.round(), expected) <= BYTE_LEVELS


@pytest.mark.parametrize("size", [(224, 224), (30, 200), (300, 17)])
def test_resize_equals_pillow(size: tuple[int, int]) -> None:
    resized_BCHW = resampled(draw.whole_boxes(SIZES), exact_sizes(SIZES, size))
    images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in PHOTOGRAPHS]
    expected = [np.asarray(image.resize(size[::-1], Image.Resampling.BILINEAR)) for image in images]
    assert worst_difference(resized_BCHW.round(), [torch.tensor(x).permute(2, 0, 1) for x in expected]) <= BYTE_LEVELS


@pytest.mark.parametrize("size", [(256, 256), (48, 65), (9, 400)])
def test_crop_and_resize_equals_torchvision(size: tuple[int, int]) -> None:
    boxes_B4 = np.array(
        [[10, 20, 333, 401], [0, 0, 427, 640], [119, 332, 1, 1], [3, 5, 61, 2], [100, 0, 101, 200], [0, 298, 300, 1]]
    )
    cut_BCHW = resampled(boxes_B4, exact_sizes(SIZES, size))
    for dtype, levels in ((torch.float32, FLOAT_LEVELS), (torch.uint8, BYTE_LEVELS)):
        expected = [
            reference.resized_crop(image.to(dtype), *box, size=list(size), antialias=True)
            for image, box in zip(PHOTOGRAPHS, boxes_B4.tolist(), strict=True)
        ]
        result_BCHW = cut_BCHW if dtype.is_floating_point else cut_BCHW.round()
        assert worst_difference(result_BCHW, expected) <= levels


@pytest.mark.parametrize("first_angle", [0.0, 15.0, 90.0, -137.5])
def test_rotate_equals_torchvision(first_angle: float) -> None:
    angles = [first_angle + more for more in (0.0, -14.999, 3.3, 90.0, 180.0, -77.7)]
    window = whole_window(SIZES)
    rotated_BCHW = ops.rotate(CANVAS.float(), torch.tensor(angles), torch.tensor(SIZES), *lines(window), "bilinear")
    rotated_BCHW = blackened(rotated_BCHW, window)
    for dtype, levels in ((torch.float32, FLOAT_LEVELS), (torch.uint8, BYTE_LEVELS)):
        expected = [
            reference.rotate(image.to(dtype), angle, InterpolationMode.BILINEAR)
            for image, angle in zip(PHOTOGRAPHS, angles, strict=True)
        ]
        result_BCHW = rotated_BCHW if dtype.is_floating_point else rotated_BCHW.round()
        assert worst_difference(result_BCHW, expected) <= levels


@pytest.mark.parametrize("size", [(224, 224), (225, 224), (64, 48), (65, 49), (63, 47), (1, 1), (500, 701), (33, 641)])
def test_center_crop_equals_torchvision(size: tuple[int, int]) -> None:
    window = crop_window(draw.center_offsets(SIZES, size), SIZES, exact_sizes(SIZES, size))
    expected = [reference.center_crop(image, list(size)) for image in PHOTOGRAPHS]
    assert worst_difference(seen_through(window), expected) == 0


@pytest.mark.parametrize(("size", "padding"), [((60, 40), 0), ((64, 48), 8), ((90, 70), 20)])
def test_random_crop_equals_padding_and_cropping(size: tuple[int, int], padding: int) -> None:
    op, random = RandomCrop(op="random_crop", size=size, padding=padding), np.random.default_rng(0).random
    offsets_B2 = draw.random_crop(op, lambda num: random((len(SIZES), num)), SIZES)
    corners = (offsets_B2 + padding).tolist()
    expected = [
        reference.crop(reference.pad(image, [padding]), *corner, *size)
        for image, corner in zip(PHOTOGRAPHS, corners, strict=True)
    ]
    window = crop_window(offsets_B2, SIZES, exact_sizes(SIZES, size))
    assert worst_difference(seen_through(window), expected) == 0


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalize_equals_torchvision(layout: torch.memory_format) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    expected_BCHW = reference.normalize(CANVAS / 255, mean, std)
    images_BCHW = CANVAS.to(torch.float32, memory_format=layout)
    torch.testing.assert_close(
        ops.normalize(images_BCHW, torch.tensor(mean), torch.tensor(std)), expected_BCHW, atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("size", [(224, 224), (30, 200), (700, 650), (9, 1)])
def test_bicubic_equals_pillow_and_torchvision(size: tuple[int, int]) -> None:
    resized_BCHW = resampled(draw.whole_boxes(SIZES), exact_sizes(SIZES, size), "bicubic")
    if size != (30, 200):  # Pillow 12 takes the rows first for one of these shapes, and cuts to bytes between
        images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in PHOTOGRAPHS]
        pillows = [np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC)) for image in images]
        expected = [torch.tensor(pillow).permute(2, 0, 1) for pillow in pillows]
        assert worst_difference(resized_BCHW.round(), expected) <= BYTE_LEVELS
    if size[1] > 1:  # torch 2.14 gives wrong pixels there for uint8 that is not channels last
        bicubic = InterpolationMode.BICUBIC
        expected = [reference.resize(image, list(size), bicubic, antialias=True) for image in PHOTOGRAPHS]
        assert worst_difference(resized_BCHW.round(), expected) <= BYTE_LEVELS
