"""Chunks of a batch that a GPU takes through the first passes, so that their memory follows from the recipe.

Images come in the sizes of the data; one of 2000x3000 among 256 would make a canvas of 1.5 billion pixels. So only each
image's needed box is taken, and images of similar height are a chunk as long as no canvas is above CHUNK_PIXELS. From
the pass on that gives all images the recipe's size, the batch is whole.

Everything here but `apply_passes` is a pure function of sizes and operations; `memory` adds up bytes by it.
Shapes: as in `ops`; G images of a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from launcher.augment.arrays import INT64
from launcher.augment.batch import apply_to_batch
from launcher.augment.draw import whole_boxes
from launcher.augment.fuse import DrawnOp, FusedOp, Window, fuse_ops
from launcher.augment.groups import on_device
from launcher.augment.images import PackedImages
from launcher.recipe.augment import TrainOp
from launcher.recipe.facts import output_size

CHUNK_PIXELS = 2**24
"""Pixels of the largest canvas of a chunk of several images, of about 40 bytes each while it is scaled (`memory`): 256
crops of photographs of 375x500 are three or four chunks."""

_MOVES = ("center_crop", "random_crop", "horizontal_flip", "vertical_flip")


@dataclass(frozen=True)
class Passes:
    """The passes over a batch, those whose memory depends on the sizes of the data apart."""

    boxes_B4: INT64
    """The part of each image that the first pass needs."""
    varied: list[FusedOp]
    """From these boxes to one size."""
    rest: list[FusedOp]
    """On images of the recipe's size."""


def plan_passes(sizes_B2: INT64, ops: Sequence[TrainOp], drawn_ops: Sequence[DrawnOp]) -> Passes:
    """The passes for images of these sizes; `drawn_ops`: the parameters of `ops`."""
    num = next((i + 1 for i in range(len(ops)) if output_size(ops[: i + 1]) is not None), len(ops))
    while num < len(ops) and ops[num].op in _MOVES:  # these fuse into the pass before them
        num += 1
    varied = fuse_ops(sizes_B2, drawn_ops[:num])
    after_B2 = drawn_ops[num - 1].sizes_B2 if num else sizes_B2
    boxes_B4, varied = _from_boxes(sizes_B2, varied)
    return Passes(boxes_B4, varied, fuse_ops(after_B2, drawn_ops[num:]))


def _from_boxes(sizes_B2: INT64, fused_ops: list[FusedOp]) -> tuple[INT64, list[FusedOp]]:
    """Boxes_B4 that the first pass needs, and the passes on these boxes alone.

    Boxes are whole images where all have one size and boxes would spare less than half of the canvas: such images may
    be a canvas already.
    """
    boxes_B4 = whole_boxes(sizes_B2)
    if not fused_ops:
        return boxes_B4, fused_ops
    first, *others = fused_ops
    rows, cols = first.window.rows, first.window.cols
    if first.drawn is None:
        (tops_B, heights_B), (lefts_B, widths_B) = rows.needed(), cols.needed()
        boxes_B4 = np.stack([tops_B, lefts_B, heights_B, widths_B], axis=1)
        first = FusedOp(None, Window(rows.moved(tops_B), cols.moved(lefts_B)))
    elif first.is_scaling:
        boxes_B4 = first.drawn.parameters
        first = replace(first, drawn=replace(first.drawn, parameters=whole_boxes(boxes_B4[:, 2:])))
    is_one_size = (sizes_B2 == sizes_B2[0]).all()
    if is_one_size and 2 * boxes_B4[:, 2:].max(axis=0).prod() > sizes_B2[0].prod():
        return whole_boxes(sizes_B2), fused_ops
    return boxes_B4, [first, *others]


def canvas_sizes(passes: Passes) -> list[INT64]:
    """Size of each image's canvas, sizes_B2, before each varied pass and after the last."""
    canvases = [passes.boxes_B4[:, 2:]]
    for fused in passes.varied[:-1]:
        canvases.append(canvases[-1] if fused.drawn is None else fused.drawn.sizes_B2)
    if passes.varied:
        canvases.append(np.broadcast_to(passes.varied[-1].window.shape, canvases[0].shape))
    return canvases


def plan_chunks(passes: Passes) -> list[INT64]:
    """Rows of the batch for each chunk, each row once: the batch in order where it is one chunk, else by height."""
    canvases = canvas_sizes(passes)
    # Weights of `resample` are canvases too: as high as one side after, as wide as that side before.
    canvases += [np.stack([a_B2.T, b_B2.T], axis=2)[i] for a_B2, b_B2 in pairwise(canvases) for i in (0, 1)]
    order_B = np.lexsort((canvases[0][:, 1], canvases[0][:, 0]))
    if _pixels(canvases, order_B)[-1] <= CHUNK_PIXELS:
        return [np.arange(len(order_B))]
    chunks = []
    while len(order_B):
        num = max(1, int(np.searchsorted(_pixels(canvases, order_B), CHUNK_PIXELS, side="right")))
        chunks.append(order_B[:num])
        order_B = order_B[num:]
    return chunks


def _pixels(canvases: Sequence[INT64], rows_B: INT64) -> INT64:
    """Pixels of the largest canvas of the first one, two ... of these images, which grow: pixels_B."""
    nums_B = np.arange(1, len(rows_B) + 1)
    pixels_B: INT64 = np.max([nums_B * np.maximum.accumulate(each[rows_B]).prod(axis=1) for each in canvases], axis=0)
    return pixels_B


def part_of(passes: Passes, rows_G: INT64) -> list[FusedOp]:
    """The varied passes for some images, on the smallest canvases that hold them."""
    parts = [fused.part(rows_G) for fused in passes.varied]
    return [replace(fused, window=fused.window.trimmed()) for fused in parts[:-1]] + parts[-1:]


def apply_passes(images: PackedImages, passes: Passes) -> Tensor:
    """images_BChw of one size after all passes; uint8 where pixels were only moved."""
    images_BCHW = _apply_in_chunks(images, passes)
    for fused in passes.rest:
        images_BCHW = apply_to_batch(images_BCHW, fused)
    return images_BCHW


def _apply_in_chunks(images: PackedImages, passes: Passes) -> Tensor:
    chunks = plan_chunks(passes)
    if len(chunks) == 1:
        return _apply_to_chunk(images, passes, chunks[0])
    results: Tensor | None = None
    for rows_G in chunks:
        images_GChw = _apply_to_chunk(images, passes, rows_G)
        if results is None:
            results = images_GChw.new_empty(len(images.sizes_B2), *images_GChw.shape[1:])
        results.index_copy_(0, on_device(rows_G, results), images_GChw)
        del images_GChw  # before the next chunk takes memory
    assert results is not None
    return results


def _apply_to_chunk(images: PackedImages, passes: Passes, rows_G: INT64) -> Tensor:
    images_GCHW = images.part(rows_G).boxes(passes.boxes_B4[rows_G])
    for fused in part_of(passes, rows_G):
        images_GCHW = apply_to_batch(images_GCHW, fused)
    return images_GCHW
