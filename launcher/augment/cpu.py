"""Bytes on a CPU: scaled image by image; cropped, flipped and rotated by moving whole pixels.

ATen's integer kernels scale a photograph of 375x500 to 256x256 in 0.2 ms on one thread (8-bit channels last, AVX2);
the dense products of `ops.resample`, good for a GPU, take several ms.

Shapes: as in `ops`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from launcher.augment import kernels
from launcher.augment.arrays import FLOAT32, INT64, UINT8
from launcher.augment.fuse import DrawnOp, FusedOp, Window
from launcher.augment.images import ImageBatch
from launcher.augment.lines import BLACK

_FAR = 1e6
"""A coordinate outside of every image."""


def new_bytes(batch: int, window: Window) -> Tensor:
    """Memory for the result of a window: uint8 images_BChw, channels last."""
    return torch.empty(batch, 3, *window.shape, dtype=torch.uint8, memory_format=torch.channels_last)


def scale_each(images: ImageBatch, fused: FusedOp) -> Tensor:
    """`ops.resample` image by image, then the window: uint8 images_BChw, channels last.

    The numbers of torchvision's uint8 `resized_crop(..., antialias=True)`. Each axis is rounded to whole levels, so
    results are off those of `ops.resample` by at most 1 level of 255 (bicubic: 1.2), on average by less than 0.3.
    """
    assert fused.drawn is not None
    out_BChw = new_bytes(len(images.sizes_B2), fused.window)
    scale_and_move(images, fused.drawn, FusedOp(None, fused.window), IDENTITY_LUT_CV, out_BChw)
    return out_BChw


def as_scale_and_move(fused_ops: Sequence[FusedOp], last: FusedOp) -> tuple[DrawnOp, FusedOp] | None:
    """The arguments of `scale_and_move` where `fused_ops` and the move `last` are a scaling and one move, else None."""
    if len(fused_ops) != 1 or not fused_ops[0].is_scaling:
        return None
    drawn, window = fused_ops[0].drawn, fused_ops[0].window
    assert drawn is not None
    if window.is_whole(drawn.sizes_B2):
        return drawn, last
    # Then the scaling's own window is the move, unless `last` rotates.
    return (drawn, FusedOp(None, window)) if last.drawn is None else None


def scale_and_move(images: ImageBatch, scaling: DrawnOp, move: FusedOp, lut_CV: Tensor, out_BChw: Tensor) -> None:
    """`move_bytes` of each scaled image in turn, while its pixels are in the caches."""
    kernel, sources = _kernel_of(move)
    out_BhwC, lut = out_BChw.permute(0, 2, 3, 1).numpy(), lut_CV.numpy()
    for number, image_HWC in enumerate(_scaled(images, scaling)):
        row = slice(number, number + 1)
        kernel(image_HWC[None], *(values[row] for values in sources), lut, out_BhwC[row])


def _scaled(images: ImageBatch, scaling: DrawnOp) -> Iterator[UINT8]:
    """Each image's box in its new size; valid until the next one is taken.

    Cropped by numpy, as each operation of torch releases Python's lock and waits for it again; into the same memory, as
    blocks that threads take from the allocator in turn wander between cores. Two threads: 1.05 times as many a second.
    """
    boxes_B4 = scaling.parameters
    cut_N, scaled_N = _empty_for(boxes_B4[:, 2:]), _empty_for(scaling.sizes_B2)
    scale = _SCALE[scaling.interpolation]
    for number, ((top, left, height, width), size) in enumerate(
        zip(boxes_B4.tolist(), scaling.sizes_B2.tolist(), strict=True)
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
    """Memory for the bytes of the largest image."""
    return np.empty(3 * int(sizes_B2.prod(axis=1).max()), np.uint8)


def _as_batch(image_HWC: UINT8) -> Tensor:
    """images_1CHW, not copied: channels last, by the batch's stride too, which [None] would make 0.

    torch 2.14 gives wrong pixels for uint8 results one pixel wide in any other layout.
    """
    return torch.from_numpy(image_HWC.reshape(1, *image_HWC.shape).transpose(0, 3, 1, 2))


def move_bytes(images_BCHW: Tensor, move: FusedOp, lut_CV: Tensor, out_BChw: Tensor) -> None:
    """`ops.take`, or `ops.rotate` to the nearest pixel, followed by the window; black where it has no source.

    Writes the lookup table's number of each byte to `out`, which may have any layout.
    """
    kernel, sources = _kernel_of(move)
    images_BHWC = images_BCHW.permute(0, 2, 3, 1).contiguous().numpy()
    kernel(images_BHWC, *sources, lut_CV.numpy(), out_BChw.permute(0, 2, 3, 1).numpy())


def _kernel_of(move: FusedOp) -> tuple[Callable[..., None], tuple[npt.NDArray[Any], ...]]:
    """The kernel that moves pixels so, and where they come from, a row for each image."""
    if move.drawn is None:
        return kernels.take, (move.window.rows_Bh, move.window.cols_Bw)
    return kernels.rotate_nearest, _rotated_sources(move.drawn, move.window)


def _rotated_sources(rotation: DrawnOp, window: Window) -> tuple[FLOAT32, FLOAT32, FLOAT32, FLOAT32]:
    """Source of each pixel of the window, as `kernels.rotate_nearest` takes it."""
    radians_B1 = np.deg2rad(rotation.parameters)[:, None]
    cos_B1, sin_B1 = np.cos(radians_B1), np.sin(radians_B1)
    middle_y_B1, middle_x_B1 = rotation.sizes_B2[:, :1] / 2, rotation.sizes_B2[:, 1:] / 2
    y_Bh, x_Bw = window.rows_Bh + 0.5 - middle_y_B1, window.cols_Bw + 0.5 - middle_x_B1
    y_Bh[window.rows_Bh == BLACK] = x_Bw[window.cols_Bw == BLACK] = _FAR
    return (
        (middle_y_B1 - 0.5 + cos_B1 * y_Bh).astype(np.float32),
        (sin_B1 * x_Bw).astype(np.float32),
        (middle_x_B1 - 0.5 - sin_B1 * y_Bh).astype(np.float32),
        (cos_B1 * x_Bw).astype(np.float32),
    )


IDENTITY_LUT_CV = torch.arange(256, dtype=torch.uint8).repeat(3, 1)
"""A lookup table that leaves bytes as they are."""
