"""One pass over the pixels of a whole batch, on whichever device they are on, without a loop over images.

Shapes: as in `ops`.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from launcher.augment.fuse import FusedOp, Window
from launcher.augment.groups import on_device
from launcher.augment.ops import blacken, resample, rotate, take
from launcher.augment.pixels import PIXEL_OPS


def apply_to_batch(images_BCHW: Tensor, fused: FusedOp) -> Tensor:
    """images_BChw, uint8 where they were and pixels are only moved."""
    drawn, window = fused.drawn, fused.window
    if drawn is not None and drawn.name in PIXEL_OPS:
        images_BCHW = PIXEL_OPS[drawn.name](images_BCHW.float(), drawn)
        if window.is_whole(drawn.sizes_B2):
            return images_BCHW
        drawn = None
    (rows_Bh, rows_inside_Bh), (cols_Bw, cols_inside_Bw) = lines_on_device(window, images_BCHW)
    if drawn is None:
        results_BChw = take(images_BCHW, rows_Bh, cols_Bw)
    else:
        parameters, sizes_B2 = on_device(drawn.parameters, images_BCHW), on_device(drawn.sizes_B2, images_BCHW)
        apply = resample if fused.is_scaling else rotate
        # The products of `resample` would copy images that are channels last once more.
        layout = torch.contiguous_format if fused.is_scaling else torch.preserve_format
        images_BCHW = images_BCHW.to(torch.float32, memory_format=layout)
        results_BChw = apply(images_BCHW, parameters, sizes_B2, rows_Bh, cols_Bw, drawn.interpolation)
    if rows_inside_Bh is None or cols_inside_Bw is None:
        return results_BChw
    return blacken(results_BChw, rows_inside_Bh, cols_inside_Bw)


Line = tuple[Tensor, Tensor | None]
"""The source of each pixel, 0 in place of BLACK, and whether there is one; None where all have one."""


def lines_on_device(window: Window, images: Tensor) -> tuple[Line, Line]:
    """Rows and columns, made where the images are from a few numbers for each image.

    `has_black` is known on the CPU, so no GPU is waited for.
    """
    numbers = [
        np.stack([lines.starts_B, lines.steps_B, lines.lows_B, lines.highs_B]) for lines in (window.rows, window.cols)
    ]
    rows_4B, cols_4B = on_device(np.stack(numbers), images).unbind()
    has_black = window.has_black
    return _line(rows_4B, window.rows.num, has_black), _line(cols_4B, window.cols.num, has_black)


def _line(numbers_4B: Tensor, num: int, has_black: bool) -> Line:
    starts_B1, steps_B1, lows_B1, highs_B1 = numbers_4B[:, :, None].unbind()
    pixels_I = torch.arange(num, device=numbers_4B.device)
    sources_BI = starts_B1 + steps_B1 * pixels_I
    if not has_black:
        return sources_BI, None
    is_inside_BI = (pixels_I >= lows_B1) & (pixels_I < highs_B1)
    return sources_BI.mul_(is_inside_BI), is_inside_BI
