"""Photographs of different sizes, alone and as one batch."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor

from launcher.augment.arrays import INT64
from launcher.augment.images import PackedImages

# Height, width, and top left corner; both photographs are 427 x 640.
_CUTS = (
    (375, 500, 20, 30),
    (427, 640, 0, 0),
    (120, 333, 100, 60),
    (64, 48, 200, 300),
    (201, 200, 7, 11),
    (300, 299, 9, 2),
)


def load_photographs() -> list[Tensor]:
    """Six uint8 CHW images, of six sizes."""
    sources = [torch.tensor(load_sample_image(name)).permute(2, 0, 1) for name in ("china.jpg", "flower.jpg")]
    return [sources[i % 2][:, y : y + h, x : x + w].contiguous() for i, (h, w, y, x) in enumerate(_CUTS)]


def pack(images: list[Tensor]) -> tuple[Tensor, INT64]:
    """canvas_BCHW with each image in its top left corner, zero elsewhere, and sizes_B2."""
    sizes_B2 = np.array([image.shape[1:] for image in images], dtype=np.int64)
    canvas_BCHW = torch.zeros(len(images), 3, *sizes_B2.max(axis=0).tolist(), dtype=images[0].dtype)
    for canvas_CHW, image in zip(canvas_BCHW, images, strict=True):
        canvas_CHW[:, : image.shape[1], : image.shape[2]] = image
    return canvas_BCHW, sizes_B2


def in_a_block(images: list[Tensor]) -> PackedImages:
    """The images as the loader packs them."""
    sizes_B2 = np.array([image.shape[1:] for image in images], dtype=np.int64)
    ends_B = sizes_B2.prod(axis=1).cumsum()
    pixels_PC = torch.cat([image.permute(1, 2, 0).reshape(-1, 3) for image in images])
    return PackedImages(pixels_PC, ends_B - sizes_B2.prod(axis=1), sizes_B2)


def in_corners(canvas_BCHW: Tensor, sizes_B2: INT64) -> PackedImages:
    """The images in the top left corners, packed."""
    images = [image[:, :height, :width] for image, (height, width) in zip(canvas_BCHW, sizes_B2.tolist(), strict=True)]
    return in_a_block(images)


def worst_difference(canvas_BCHW: Tensor, expected: list[Tensor]) -> float:
    """Largest difference of a batch from single images inside their area, and from zero outside of it."""
    expected_BCHW, _ = pack([image.float() for image in expected])
    assert canvas_BCHW.shape == expected_BCHW.shape
    assert canvas_BCHW.dtype == torch.float32
    return float((canvas_BCHW - expected_BCHW).abs().max())
