"""Affine and perspective warps of whole batches in one `grid_sample`, each image with its own coefficients.

Shapes: B images, C channels, H x W pixels, all images of one size; B8 coefficients as in `draw_warp`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from torch import Tensor
from torch.nn.functional import grid_sample

from launcher.augment.arrays import FLOAT64
from launcher.augment.groups import on_device

WarpMode = Literal["nearest", "bilinear"]


def warp(images_BCHW: Tensor, coefficients_B8: FLOAT64, mode: WarpMode) -> Tensor:
    """Each pixel from its source by the coefficients, black from outside the image: images_BCHW.

    The numbers of torchvision's `affine` and `perspective` with their default fill. As in `ops.rotate`, linear parts
    are a sum of one float64 term per row and one per column, rounded last.
    """
    height, width = images_BCHW.shape[2:]
    a, b, c, d, e, f, g, h = coefficients_B8.T[:, :, None]
    x_W, y_H = np.arange(width)[None] + 0.5, np.arange(height)[None] + 0.5
    # From pixels to grid_sample's [-1, 1], the denominator multiplied in: 2 x / W - 1 = (2 num / W - den) / den.
    cols = [2 * a / width * x_W - g * x_W, 2 * d / height * x_W - g * x_W, g * x_W]
    rows = [2 * (b * y_H + c) / width - (h * y_H + 1), 2 * (e * y_H + f) / height - (h * y_H + 1), h * y_H + 1]
    cols_BW3 = on_device(np.stack(cols, axis=2).astype(np.float32), images_BCHW)
    rows_BH3 = on_device(np.stack(rows, axis=2).astype(np.float32), images_BCHW)
    grid_BHW2 = rows_BH3[:, :, None, :2] + cols_BW3[:, None, :, :2]
    if coefficients_B8[:, 6:].any():
        grid_BHW2 /= rows_BH3[:, :, None, 2:] + cols_BW3[:, None, :, 2:]
    return grid_sample(images_BCHW, grid_BHW2, mode=mode, padding_mode="zeros", align_corners=False)
