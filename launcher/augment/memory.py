"""The memory that augmentation takes on a GPU, as a function of sizes and operations: no pixel is needed.

It adds up the tensors of `images`, `ops` and `pixels` that are there at the same time; a test measures them. The few
megabytes of working memory that CUDA's libraries keep come on top.
Shapes: as in `chunks`; H x W canvas before a pass, h x w after it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from launcher.augment.arrays import INT64
from launcher.augment.chunks import canvas_sizes, plan_chunks, plan_passes
from launcher.augment.fuse import DrawnOp, FusedOp
from launcher.augment.pixels import PIXEL_OPS
from launcher.recipe.augment import TrainOp

_BYTES, _FLOATS = 3, 12
"""Bytes of a pixel in uint8 and in float32."""
_GATHERED = 12
"""Bytes for each pixel of a canvas of boxes while it is gathered: place in the block, whether it has one, itself."""
PIXEL_OP_BYTES = 132
"""Bytes for each pixel of one of PIXEL_OPS at most, its images in float32 included: `equalize` has int64 numbers."""


def peak_bytes(sizes_B2: INT64, ops: Sequence[TrainOp], drawn_ops: Sequence[DrawnOp]) -> int:
    """Most bytes at once while a batch is augmented, beside its packed images.

    `sizes_B2`: of the images as decoded; `drawn_ops`: the parameters of `ops` for them.
    """
    passes, num = plan_passes(sizes_B2, ops, drawn_ops), len(sizes_B2)
    canvases, chunks = canvas_sizes(passes), plan_chunks(passes)
    for_chunks, per_pixel = 0, _BYTES
    for rows_G in chunks:
        shapes = [_extent(canvas[rows_G]) for canvas in canvases]
        for_chunk, per_pixel = _chain(len(rows_G), shapes, passes.varied, _GATHERED)
        for_chunks = max(for_chunks, for_chunk)
    results = num * per_pixel * _area(_extent(canvases[-1])) if len(chunks) > 1 else 0
    shapes = [_extent(canvases[-1]), *(fused.window.shape for fused in passes.rest)]
    for_rest, per_pixel = _chain(num, shapes, passes.rest, per_pixel, per_pixel)
    return max(for_chunks + results, for_rest, num * (per_pixel + _FLOATS) * _area(shapes[-1]))


Shape = tuple[int, int]


def _extent(sizes_B2: INT64) -> Shape:
    height, width = sizes_B2.max(axis=0).tolist()
    return height, width


def _area(shape: Shape) -> int:
    return shape[0] * shape[1]


def _chain(
    num: int, shapes: Sequence[Shape], fused_ops: Sequence[FusedOp], first: int, per_pixel: int = _BYTES
) -> tuple[int, int]:
    """Most bytes of passes one after the other, and bytes of each pixel of the result.

    `first`: bytes of each pixel while the first canvas is made.
    """
    peak = num * first * _area(shapes[0])
    for fused, (before, after) in zip(fused_ops, pairwise(shapes), strict=True):
        peak = max(peak, num * _pass_bytes(fused, before, after, per_pixel))
        per_pixel = per_pixel if fused.drawn is None else _FLOATS
    return peak, per_pixel


def _pass_bytes(fused: FusedOp, before: Shape, after: Shape, per_pixel: int) -> int:
    """Bytes for each image, the one before included, which has `per_pixel`."""
    drawn, (H, W), (h, w) = fused.drawn, before, after
    as_floats = (per_pixel + _FLOATS) if per_pixel == _BYTES else _FLOATS
    if drawn is None:  # a copy in another layout; places of int64, whether each is inside
        return 2 * per_pixel * H * W + (8 + per_pixel + 1) * h * w
    if drawn.name in PIXEL_OPS:
        return (as_floats - _FLOATS + PIXEL_OP_BYTES) * H * W + (8 + _FLOATS + 1) * h * w
    if not fused.is_scaling:  # sources as two float32
        return as_floats * H * W + (8 + _FLOATS + 1) * h * w
    is_bicubic = drawn.interpolation == "bicubic"
    each = 24 if is_bicubic else 4  # bytes of a weight while it is computed
    weights = max(each * h * H, 4 * h * H + each * w * W)
    between = H * w if is_bicubic else max(H * w, h * W)
    products = 4 * (h * H + w * W) + _FLOATS * (h * H + between + h * w) + h * w
    return as_floats * H * W + max(weights, products)
