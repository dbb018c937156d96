"""The batch on a CPU: in pieces that stay in the cache, over a few threads, scaled as bytes image by image.

ATen's integer kernels scale a photograph of 375x500 to 256x256 in 0.5 ms on one thread (8-bit channels last, AVX2);
the dense products of `ops.resample`, good for a GPU, in several ms.

Shapes: as in `ops`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from launcher.augment.draw import INT64
from launcher.augment.ops import Interpolation
from launcher.augment.passes import BLACK, Window

_Run = tuple[slice, slice, bool]
"""Pixels of the result, the pixels that they are, and whether these are to be mirrored."""

_POOLED_PIXELS = 2**17
"""Batches below that stay with the calling thread: waking the pool takes 0.1 ms."""
PIECE_PIXELS = 2**21
"""Pixels of the canvas in a piece, seven photographs: job A takes 75 ms in them, 112 ms in halves of the batch (which
leave the cache) and 130 ms one by one, on two threads of a busy machine."""


def in_pieces(work: Callable[[slice], None], batch: int, pixels: int) -> None:
    """Call `work` for parts of a batch of images of so many pixels each, on torch's number of threads."""
    num_threads = torch.get_num_threads()
    length = max(1, min(PIECE_PIXELS // pixels, -(-batch // num_threads)))
    pieces = [slice(start, start + length) for start in range(0, batch, length)]
    if num_threads == 1 or batch * pixels < _POOLED_PIXELS:
        for piece in pieces:
            work(piece)
    else:
        list(_pool(os.getpid(), num_threads).map(work, pieces))


def resample_bytes(
    images_BCHW: Tensor, boxes_B4: INT64, sizes_B2: INT64, window: Window, mode: Interpolation
) -> Tensor:
    """`ops.resample` seen through a window, uint8 to uint8: images_BChw, channels last.

    The numbers of torchvision's uint8 `resized_crop(..., antialias=True)`. Each axis is rounded to whole levels, so
    results are off those of `ops.resample` by at most 1 level of 255 (bicubic: 1.2), on average by less than 0.3.
    """
    (batch, channels), h, w = images_BCHW.shape[:2], window.rows_Bh.shape[1], window.cols_Bw.shape[1]
    fresh = images_BCHW.new_zeros if window.has_black else images_BCHW.new_empty
    results_BChw = fresh(batch, h, w, channels).permute(0, 3, 1, 2)
    boxes, sizes = boxes_B4.tolist(), sizes_B2.tolist()
    rows, cols = _runs(window.rows_Bh), _runs(window.cols_Bw)

    def scale(images: slice) -> None:
        """Images that share box, size and window."""
        (top, left, height, width), size = boxes[images.start], sizes[images.start]
        boxes_BCHW = images_BCHW[images, :, top : top + height, left : left + width]
        (to_rows, from_rows, flip_rows), (to_cols, from_cols, flip_cols) = rows[images.start], cols[images.start]
        part_BChw = _scale(boxes_BCHW, size, mode)[:, :, from_rows, from_cols]
        axes = [axis for axis, flip in ((2, flip_rows), (3, flip_cols)) if flip]
        results_BChw[images, :, to_rows, to_cols] = part_BChw.flip(axes) if axes else part_BChw

    alike = all((values == values[:1]).all() for values in (boxes_B4, sizes_B2, window.rows_Bh, window.cols_Bw))
    step = batch if alike else 1
    for start in range(0, batch, step):
        scale(slice(start, start + step))
    return results_BChw


def _scale(images_BCHW: Tensor, size: list[int], mode: Interpolation) -> Tensor:
    # By strides, not only by name: torch 2.14 gives wrong pixels for uint8 results one pixel wide in any other layout.
    images_BHWC = images_BCHW.permute(0, 2, 3, 1).contiguous()
    return interpolate(images_BHWC.permute(0, 3, 1, 2), size, mode=mode, antialias=True)


def _runs(lines_BI: INT64) -> list[_Run]:
    """Each line of a window as one run of neighbours; an empty one where all is black."""
    seen_BI = lines_BI != BLACK
    starts_B, lengths_B = seen_BI.argmax(axis=1), seen_BI.sum(axis=1)
    stops_B = starts_B + lengths_B
    every = np.arange(len(lines_BI))
    firsts_B, lasts_B = lines_BI[every, starts_B], lines_BI[every, np.maximum(stops_B - 1, 0)]
    lows_B = np.where(lengths_B > 0, np.minimum(firsts_B, lasts_B), 0)
    return [
        (slice(start, start + length), slice(low, low + length), flip)
        for start, length, low, flip in zip(
            starts_B.tolist(), lengths_B.tolist(), lows_B.tolist(), (firsts_B > lasts_B).tolist(), strict=True
        )
    ]


@cache
def _pool(process: int, num_threads: int) -> ThreadPoolExecutor:
    """Threads in which torch starts no threads of its own, kept: new ones for each batch take a third longer.

    One pool per process, as a forked one has none of its parent's threads.
    """
    pool = ThreadPoolExecutor(num_threads, f"augment-{process}")
    together = Barrier(num_threads)

    def enter(_: int) -> None:
        together.wait()
        torch.set_num_threads(1)

    list(pool.map(enter, range(num_threads)))
    # It counts for the calling thread and for all that start later; the latter are to have what they had.
    torch.set_num_threads(num_threads)
    return pool
