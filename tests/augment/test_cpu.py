"""Bytes on a CPU against the batch operations of a GPU, torchvision and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from launcher.augment import cpu, ops
from launcher.augment.arrays import INT64
from launcher.augment.draw import center_offsets, whole_boxes
from launcher.augment.fuse import DrawnOp, FusedOp, Window, crop_window, whole_window
from launcher.augment.images import PackedImages
from launcher.augment.ops import Interpolation
from launcher.augment.sizes import exact_sizes
from tests.augment.photographs import in_a_block, load_photographs

LEVELS: dict[Interpolation, float] = {"bilinear": 1.01, "bicubic": 1.2}
"""Largest difference of bytes from floats, in levels of 255: each axis is rounded, and so are the filter's weights; the
absolute values of bicubic ones sum to more than one."""
ONES = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 1), (5, 8)]


def images(kind: str) -> list[Tensor]:
    if kind == "photographs":
        return load_photographs()
    photograph = load_photographs()[0]
    if kind == "digits":
        return [photograph[:, i : i + 8, 40 : 40 + 8] for i in range(7)]
    return [photograph[:, 100 : 100 + h, 50 : 50 + w] for h, w in ONES]


def scale(block: PackedImages, after_B2: INT64, window: Window, mode: Interpolation) -> Tensor:
    drawn = DrawnOp("resize", whole_boxes(block.sizes_B2), after_B2, mode)
    return cpu.scale_each(block, FusedOp(drawn, window)).float()


def as_batch(block: PackedImages, sizes_B2: INT64, window: Window, mode: Interpolation) -> Tensor:
    rows_Bh, cols_Bw = torch.tensor(window.rows_Bh), torch.tensor(window.cols_Bw)
    boxes_B4 = torch.tensor(whole_boxes(block.sizes_B2))
    parameters = boxes_B4, torch.tensor(sizes_B2), rows_Bh.clamp(min=0), cols_Bw.clamp(min=0)
    return ops.blacken(ops.resample(block.canvas().float(), *parameters, mode), rows_Bh >= 0, cols_Bw >= 0)


@pytest.mark.parametrize("kind", ["photographs", "digits", "tiny"])
@pytest.mark.parametrize("size", [(256, 256), (224, 97), (8, 8), (1, 1), (1, 7), (300, 1), (2, 3)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_scaled_bytes_equal_scaled_floats(kind: str, size: tuple[int, int], mode: Interpolation) -> None:
    block = in_a_block(images(kind))
    after_B2 = exact_sizes(block.sizes_B2, size)
    for cut in (size, (5, 6), (280, 301)):
        window = whole_window(after_B2).then(
            crop_window(center_offsets(after_B2, cut), after_B2, exact_sizes(after_B2, cut))
        )
        difference = (scale(block, after_B2, window, mode) - as_batch(block, after_B2, window, mode)).abs()
        assert float(difference.max()) <= LEVELS[mode]
        assert float(difference.mean()) < 0.3 or kind != "photographs" or min(size) < 8


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("photographs", "bilinear"), ("tiny", "bilinear"), ("tiny", "bicubic")],  # elsewhere Pillow 12 takes rows first
)
def test_scaled_bytes_equal_pillow(kind: str, mode: Interpolation) -> None:
    after_B2 = exact_sizes(np.zeros((len(images(kind)), 2), np.int64), (45, 40))
    scaled_BCHW = scale(in_a_block(images(kind)), after_B2, whole_window(after_B2), mode)
    for image_CHW, scaled_CHW in zip(images(kind), scaled_BCHW, strict=True):
        image = Image.fromarray(image_CHW.permute(1, 2, 0).contiguous().numpy())
        expected = np.asarray(image.resize((40, 45), Image.Resampling[mode.upper()])).astype(int)
        assert np.abs(scaled_CHW.permute(1, 2, 0).numpy() - expected).max() <= 1


def test_sources_are_exact_in_images_with_more_pixels_than_float32_counts() -> None:
    images_BCHW = (torch.arange(6_000_000) % 251).to(torch.uint8).expand(1, 3, 3, -1)
    sizes_B2 = np.array([[3, 6_000_000]], dtype=np.int64)
    window = crop_window(np.array([[2, 5_999_992]]), sizes_B2, np.array([[1, 8]]))
    drawn = DrawnOp("rotation", np.zeros(1), sizes_B2, "nearest")
    found = [torch.empty(1, 3, 1, 8, dtype=torch.uint8) for _ in range(2)]
    for fused, out_BChw in zip((FusedOp(drawn, window), FusedOp(None, window)), found, strict=True):
        cpu.move_bytes(images_BCHW, fused, cpu.IDENTITY_LUT_CV, out_BChw)
        assert torch.equal(out_BChw[0, 0, 0], images_BCHW[0, 0, 2, -8:])
