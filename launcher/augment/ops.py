"""Operations on whole batches, on whichever device the images are on, without a loop over samples.

Images of one batch may differ in size. Each lies in the top left corner of its canvas, and the rest of the canvas is
zero; every operation keeps it so, once `blacken` has cleared the rows and columns that come from no pixel.
`resample`, `rotate` and `take` compute only the wanted rows and columns: a crop or a flip after them costs nothing.
Values are on the scale [0, 255], which matters to `bicubic` only. `cpu` has faster versions for bytes.

Shapes: B images, C channels, H x W canvas, h x w canvas of the result, I pixels in and O pixels out along one axis;
B2 (height, width) or (top, left), B4 (top, left, height, width), int64 pixels.
rows_Bh, cols_Bw: the wanted rows and columns of the whole result, int64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

Interpolation = Literal["nearest", "bilinear", "bicubic"]


def resample(
    images_BCHW: Tensor, boxes_B4: Tensor, sizes_B2: Tensor, rows_Bh: Tensor, cols_Bw: Tensor, mode: Interpolation
) -> Tensor:
    """Each box scaled to its size with antialiasing, of which the wanted rows and columns: images_BChw.

    The numbers of torchvision's `resized_crop(..., antialias=True)` and of Pillow. The filter is separable, so each
    axis is a product with one banded matrix per image. Where products are rounded to TF32, results are off by up to
    0.24 of 255 (photographs of 375x500 to 256x256, bilinear, rounding imitated on a CPU).
    Bicubic overshoots and is clamped to [0, 255] after each axis, columns first, as in torchvision's uint8 (and
    Pillow, which takes rows first for some shapes).
    """
    rows_BhH = _weights(boxes_B4[:, 0], boxes_B4[:, 2], sizes_B2[:, 0], rows_Bh, images_BCHW.shape[2], mode)
    cols_BwW = _weights(boxes_B4[:, 1], boxes_B4[:, 3], sizes_B2[:, 1], cols_Bw, images_BCHW.shape[3], mode)
    if mode == "bicubic":
        images_BCHw = _scale_cols(images_BCHW, cols_BwW).clamp_(0, 255)
        return (rows_BhH[:, None] @ images_BCHw).clamp_(0, 255)
    (height, width), h, w = images_BCHW.shape[2:], rows_BhH.shape[1], cols_BwW.shape[1]
    if height * w * (width + h) <= h * width * (height + w):
        return rows_BhH[:, None] @ _scale_cols(images_BCHW, cols_BwW)
    return _scale_cols(rows_BhH[:, None] @ images_BCHW, cols_BwW)


def _scale_cols(images_BCHW: Tensor, cols_BwW: Tensor) -> Tensor:
    images_Bnw = torch.bmm(images_BCHW.flatten(1, 2), cols_BwW.transpose(1, 2))
    return images_Bnw.view(*images_BCHW.shape[:3], -1)


def _weights(
    starts_B: Tensor, lengths_B: Tensor, outs_B: Tensor, wanted_BO: Tensor, num_in: int, mode: Interpolation
) -> Tensor:
    """Weights_BOI that scale pixels [start, start + length) to [0, out) along one axis, for the wanted pixels.

    The filters of ATen's antialiased `interpolate` and of Pillow: their width counts output pixels when shrinking,
    input pixels when enlarging; they end at the box and are normalized to sum one.
    """
    starts_B11, lengths_B11, outs_B11 = (values_B[:, None, None] for values_B in (starts_B, lengths_B, outs_B))
    steps_B11 = lengths_B11 / outs_B11
    inputs_B1I = torch.arange(num_in, device=starts_B.device) - starts_B11
    centers_BO1 = (wanted_BO[:, :, None] + 0.5) * steps_B11 - 0.5
    weights_BOI = _FILTERS[mode]((inputs_B1I - centers_BO1).abs_().div_(steps_B11.clamp(min=1)))
    weights_BOI.mul_((inputs_B1I >= 0) & (inputs_B1I < lengths_B11))
    # Pixels within `out` sum to at least 0.5; those past it may sum to zero.
    return weights_BOI.div_(weights_BOI.sum(dim=2, keepdim=True).clamp_(min=0.5))


def _triangle(distances: Tensor) -> Tensor:
    return distances.neg_().add_(1).clamp_(min=0)


def _cubic(distances: Tensor) -> Tensor:
    """Keys's cubic with a = -0.5 (Keys 1981), two pixels wide on either side."""
    near = (1.5 * distances - 2.5) * distances**2 + 1
    far = ((2.5 - 0.5 * distances) * distances - 4) * distances + 2
    return torch.where(distances < 1, near, far.mul_(distances < 2))


_FILTERS: dict[Interpolation, Callable[[Tensor], Tensor]] = {"bilinear": _triangle, "bicubic": _cubic}


def rotate(
    images_BCHW: Tensor, angles_B: Tensor, sizes_B2: Tensor, rows_Bh: Tensor, cols_Bw: Tensor, mode: Interpolation
) -> Tensor:
    """Each image rotated about its own center by degrees, positive is counter-clockwise; corners become black.

    The result is as large as the image; returns its wanted rows and columns: images_BChw.
    The numbers of torchvision's `rotate` with its default fill.
    """
    height, width = images_BCHW.shape[2:]
    radians_B1 = torch.deg2rad(angles_B.double())[:, None]
    cos_B1, sin_B1 = radians_B1.cos(), radians_B1.sin()
    middle_y_B1, middle_x_B1 = sizes_B2[:, :1].double() / 2, sizes_B2[:, 1:].double() / 2
    y_Bh, x_Bw = rows_Bh + 0.5 - middle_y_B1, cols_Bw + 0.5 - middle_x_B1
    # Sources in [-1, 1] are a sum of a float64 term per row and one per column, rounded last: the product inside
    # `affine_grid` would be off by a tenth of a pixel on GPUs where products are rounded to TF32. As complex numbers
    # x + iy, one sum writes x and y side by side.
    from_rows_Bh = _to_grid(middle_x_B1 - sin_B1 * y_Bh, middle_y_B1 + cos_B1 * y_Bh, height, width)
    from_cols_Bw = _to_grid(cos_B1 * x_Bw, sin_B1 * x_Bw, height, width)
    sources_Bhw2 = torch.view_as_real((from_rows_Bh - (1 + 1j))[:, :, None] + from_cols_Bw[:, None])
    return grid_sample(images_BCHW, sources_Bhw2, mode=mode, padding_mode="zeros", align_corners=False)


def _to_grid(x_BI: Tensor, y_BI: Tensor, height: int, width: int) -> Tensor:
    return torch.complex((x_BI * 2 / width).float(), (y_BI * 2 / height).float())


def take(images_BCHW: Tensor, rows_Bh: Tensor, cols_Bw: Tensor) -> Tensor:
    """The pixel at (row, column) for every wanted row and column, all inside the canvas: images_BChw.

    One gather over flat positions (n): 8 ms for 32 crops of 224x224 on two CPU threads, against 35 ms by indexing with
    tensors.
    """
    batch, channels, _, width = images_BCHW.shape
    flat_Bhw = rows_Bh[:, :, None] * width + cols_Bw[:, None]
    flat_BCn = flat_Bhw.flatten(1)[:, None].expand(batch, channels, -1)
    return images_BCHW.flatten(2).gather(2, flat_BCn).view(batch, channels, *flat_Bhw.shape[1:])


def blacken(images_BCHW: Tensor, rows_BH: Tensor, cols_BW: Tensor) -> Tensor:
    """Zero, in place, where the row or the column is false."""
    return images_BCHW.mul_((rows_BH[:, :, None] & cols_BW[:, None])[:, None])


def normalize(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """(image / 255 - mean) / std per channel, in place; mean and std are on the scale [0, 1].

    Channels last are normalized as long rows of numbers (n): 22 us for 224x224 pixels, against 310 us.
    """
    mean_C, std_C = ((values_C * 255).to(images_BCHW.device, non_blocking=True) for values_C in (mean_C, std_C))
    if images_BCHW.stride(1) == 1 and images_BCHW.is_contiguous(memory_format=torch.channels_last):
        width = images_BCHW.shape[3]
        images_BCHW.permute(0, 2, 3, 1).flatten(2).sub_(mean_C.repeat(width)).div_(std_C.repeat(width))
        return images_BCHW
    return images_BCHW.sub_(mean_C[:, None, None]).div_(std_C[:, None, None])
