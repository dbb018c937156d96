"""Sizes of images: after an operation, and before decoding, the smallest that is enough. Needs no torch.

Shapes: B images; B2 (height, width) in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from launcher.augment.arrays import INT64
from launcher.recipe.augment import CenterCrop, RandomCrop, RandomResizedCrop, Resize, TrainOp

Size = int | tuple[int, int]

DECODE_MARGIN = 2
"""An image may be decoded at a fraction of its size that is still this many times as long and wide as the result."""


def exact_size(size: Size) -> tuple[int, int]:
    """(height, width) in pixels; one number is a square."""
    return (size, size) if isinstance(size, int) else size


def exact_sizes(sizes_B2: INT64, size: Size) -> INT64:
    """The same size for every image of the batch."""
    return np.tile(np.array(exact_size(size), dtype=np.int64), (len(sizes_B2), 1))


def resized_sizes(sizes_B2: INT64, size: Size) -> INT64:
    """Sizes after `resize`: one number is the shorter side; the longer one is rounded down as torchvision does."""
    if not isinstance(size, int):
        return exact_sizes(sizes_B2, size)
    shorter_B1: INT64 = sizes_B2.min(axis=1, keepdims=True)
    return size * sizes_B2 // shorter_B1


def sizes_after(op: TrainOp, sizes_B2: INT64) -> INT64:
    """Sizes of the images after the operation."""
    if isinstance(op, Resize):
        return resized_sizes(sizes_B2, op.size)
    if isinstance(op, CenterCrop | RandomCrop | RandomResizedCrop):
        return exact_sizes(sizes_B2, op.size)
    return sizes_B2


def find_min_side(ops: Sequence[TrainOp]) -> int | None:
    """Shorter side, in pixels, from which the first operation shrinks every crop of an image by DECODE_MARGIN or more.

    None where the first operation does not scale: it needs every pixel.
    """
    first = ops[0] if ops else None
    if not isinstance(first, Resize | RandomResizedCrop):
        return None
    side = DECODE_MARGIN * max(exact_size(first.size))
    if isinstance(first, Resize):
        return side
    # As fractions of a square image's side: the smallest, longest crop, and the crop where none of the tries fits.
    drawn_frac = math.sqrt(first.scale[0] * min(first.ratio[0], 1 / first.ratio[1]))
    least_frac = min(drawn_frac, 1 / first.ratio[0], first.ratio[1], 1.0)
    return math.ceil(side / least_frac)
