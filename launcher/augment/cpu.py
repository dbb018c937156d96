"""The batch on a CPU, as bytes: scaled image by image, cut, flipped and turned by moving whole pixels.

ATen's integer kernels scale a photograph of 375x500 to 256x256 in 0.2 ms on one thread (8-bit channels last, AVX2);
the dense products of `ops.resample`, good for a GPU, in several ms.

Shapes: as in `ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from launcher.augment import kernels, ops
from launcher.augment.draw import INT64
from launcher.augment.fuse import BLACK, FusedOp, Step, Window
from launcher.augment.images import ImageBatch
from launcher.augment.kernels import FLOAT32, UINT8

_Run = tuple[slice, slice, bool]
"""Pixels of the result, the pixels that they are, and whether these are to be mirrored."""

_FAR = 1e6
"""A coordinate outside of every image."""
PIECE_PIXELS = 2**19
"""Pixels of images that are worked on together, so that they stay in the caches: eight of 256x256."""


def scale_each(images: ImageBatch, fused: FusedOp) -> Tensor:
    """`ops.resample` image by image, seen through the pass's window: uint8 images_BChw, channels last.

    The numbers of torchvision's uint8 `resized_crop(..., antialias=True)`. Each axis is rounded to whole levels, so
    results are off those of `ops.resample` by at most 1 level of 255 (bicubic: 1.2), on average by less than 0.3.
    """
    step, window = fused.step, fused.window
    assert step is not None
    fresh = np.zeros if window.has_black else np.empty
    results_BhwC = fresh((len(images.sizes_B2), *window.shape, 3), np.uint8)
    runs = zip(_runs(window.rows_Bh), _runs(window.cols_Bw), strict=True)
    for number, (image_HWC, (rows, cols)) in enumerate(zip(_scaled(images, step), runs, strict=True)):
        (to_rows, from_rows, flip_rows), (to_cols, from_cols, flip_cols) = rows, cols
        part_hwC = image_HWC[from_rows, from_cols]
        axes = tuple(axis for axis, flip in enumerate((flip_rows, flip_cols)) if flip)
        results_BhwC[number, to_rows, to_cols] = np.flip(part_hwC, axes) if axes else part_hwC
    return torch.from_numpy(results_BhwC).permute(0, 3, 1, 2)


def scale_and_move(images: ImageBatch, step: Step, move: FusedOp, lut_CV: Tensor, out_BChw: Tensor) -> None:
    """`move_bytes` of what a step scales, one image after the other, while its pixels are in the caches."""
    kernel, places = _kernel_of(move)
    out_BhwC, table = out_BChw.permute(0, 2, 3, 1).numpy(), lut_CV.numpy()
    for number, image_HWC in enumerate(_scaled(images, step)):
        row = slice(number, number + 1)
        kernel(image_HWC[None], *(values[row] for values in places), table, out_BhwC[row])


def _scaled(images: ImageBatch, step: Step) -> Iterator[UINT8]:
    """Each image's box in its new size, to be used before the next one is asked for.

    Cut by numpy, as each operation of torch gives Python's lock away and waits for it again; and one over the other, as
    blocks that threads take from the allocator in turn wander between cores. Two threads: 1.05 times as many a second.
    """
    boxes_B4 = step.parameters.astype(np.int64)
    cut_N, scaled_N = _empty_for(boxes_B4[:, 2:]), _empty_for(step.sizes)
    scale = _SCALE[step.interpolation]
    for number, ((top, left, height, width), size) in enumerate(
        zip(boxes_B4.tolist(), step.sizes.tolist(), strict=True)
    ):
        box_HWC = images.image(number).numpy()[top : top + height, left : left + width]
        if not box_HWC.flags.c_contiguous:
            whole_HWC = cut_N[: box_HWC.size].reshape(box_HWC.shape)
            whole_HWC[:] = box_HWC
            box_HWC = whole_HWC
        scaled_HWC = scaled_N[: 3 * math.prod(size)].reshape(*size, 3)
        scale(_as_batch(box_HWC), size, False, out=_as_batch(scaled_HWC))
        yield scaled_HWC


_SCALE = {
    # What torch.nn.functional.interpolate(antialias=True) calls, which has no `out`.
    "bilinear": torch.ops.aten._upsample_bilinear2d_aa.out,
    "bicubic": torch.ops.aten._upsample_bicubic2d_aa.out,
}


def _empty_for(sizes_B2: INT64) -> UINT8:
    """Room for the bytes of the largest image."""
    return np.empty(3 * int(sizes_B2.prod(axis=1).max()), np.uint8)


def _as_batch(image_HWC: UINT8) -> Tensor:
    """images_1CHW, not copied: channels last, by the batch's stride too, which [None] would make 0.

    torch 2.14 gives wrong pixels for uint8 results one pixel wide in any other layout.
    """
    return torch.from_numpy(image_HWC.reshape(1, *image_HWC.shape).transpose(0, 3, 1, 2))


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


def is_move(fused: FusedOp) -> bool:
    """Whether it takes each pixel of the result from one pixel, as it is."""
    step = fused.step
    return step is None or (step.op == "rotation" and step.interpolation == "nearest")


def move_bytes(images_BCHW: Tensor, fused: FusedOp, lut_CV: Tensor, out_BChw: Tensor) -> None:
    """`ops.take`, or `ops.rotate` to the nearest pixel, seen through the pass's window, black where it sees nothing.

    `out`, in any layout, gets what the table has for each byte.
    """
    kernel, places = _kernel_of(fused)
    images_BHWC = images_BCHW.permute(0, 2, 3, 1).contiguous().numpy()
    kernel(images_BHWC, *places, lut_CV.numpy(), out_BChw.permute(0, 2, 3, 1).numpy())


def _kernel_of(fused: FusedOp) -> tuple[Callable[..., None], tuple[npt.NDArray[Any], ...]]:
    """What moves pixels so, and where they come from, a row for each image."""
    step, window = fused.step, fused.window
    if step is None:
        return kernels.take, (window.rows_Bh, window.cols_Bw)
    return kernels.turn, _turned_places(step, window)


def _turned_places(step: Step, window: Window) -> tuple[FLOAT32, FLOAT32, FLOAT32, FLOAT32]:
    """Where each pixel of the window comes from, as `kernels.turn` takes it."""
    radians_B1 = np.deg2rad(step.parameters.astype(np.float64))[:, None]
    cos_B1, sin_B1 = np.cos(radians_B1), np.sin(radians_B1)
    middle_y_B1, middle_x_B1 = step.sizes[:, :1] / 2, step.sizes[:, 1:] / 2
    y_Bh, x_Bw = window.rows_Bh + 0.5 - middle_y_B1, window.cols_Bw + 0.5 - middle_x_B1
    y_Bh[window.rows_Bh == BLACK] = x_Bw[window.cols_Bw == BLACK] = _FAR
    return (
        (middle_y_B1 - 0.5 + cos_B1 * y_Bh).astype(np.float32),
        (sin_B1 * x_Bw).astype(np.float32),
        (middle_x_B1 - 0.5 - sin_B1 * y_Bh).astype(np.float32),
        (cos_B1 * x_Bw).astype(np.float32),
    )


def normalizing_lut(mean_C: Tensor, std_C: Tensor) -> Tensor:
    """What `ops.normalize` makes of each level of a byte: table_CV."""
    levels_1C1V = torch.arange(256.0).repeat(1, 3, 1, 1)
    return ops.normalize(levels_1C1V, mean_C, std_C)[0, :, 0]


IDENTITY_LUT_CV = torch.arange(256, dtype=torch.uint8).repeat(3, 1)
"""A table that leaves bytes as they are."""
