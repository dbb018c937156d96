"""Blur, noise and erasing of whole batches, on whichever device the images are on.

Images are float32 on the scale [0, 255], all of one size; results are new ones on the same scale.

Shapes: B images, C channels, H x W pixels; n values of one image in a row; K numbers of a kernel.
"""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad


def gaussian_blur(images_BCHW: Tensor, kernels_BK: Tensor) -> Tensor:
    """Rows, then columns, convolved with each image's own kernel; edges are mirrored: torchvision's `gaussian_blur`.

    Every channel of every image is a group of one convolution. For groups of one channel in this layout torch has a
    CUDA kernel of its own for float32, which does not round to TF32.
    """
    weights_nK = kernels_BK.repeat_interleave(images_BCHW.shape[1], dim=0)
    padding = [kernels_BK.shape[1] // 2] * 4
    planes_1nHW = pad(images_BCHW.contiguous(), padding, mode="reflect").flatten(0, 1)[None]
    planes_1nHW = conv2d(planes_1nHW, weights_nK[:, None, None], groups=len(weights_nK))
    planes_1nHW = conv2d(planes_1nHW, weights_nK[:, None, :, None], groups=len(weights_nK))
    return planes_1nHW.view_as(images_BCHW)


def add_noise(images_BCHW: Tensor, keys_B: Tensor, sigmas_B: Tensor) -> Tensor:
    """Plus Gaussian noise of this standard deviation on the scale [0, 1], clamped to [0, 255]; keys_B are int64."""
    noise_Bn = normal_numbers(keys_B, images_BCHW[0].numel()) * (255 * sigmas_B)[:, None]
    return (images_BCHW + noise_Bn.view(images_BCHW.shape)).clamp_(0, 255)


def normal_numbers(keys_B: Tensor, num: int) -> Tensor:
    """Normally distributed numbers_Bn, float32, n = `num`: a function of the key and the place in the row.

    Only integers and one lookup, so the numbers are the same bits on every device and in every batch: a hash of 64 bits
    (see `keyed_random`) gives four numbers, 16 bits each choose one of 2**16 equally likely quantiles.
    The largest is 4.3 standard deviations.
    """
    quarters_n = torch.arange(-(-num // 4), device=keys_B.device)
    words_Bn = mix(keys_B[:, None] ^ mix(quarters_n))
    shifts_4 = torch.arange(0, 64, 16, device=keys_B.device)
    places_Bn = ((words_Bn[:, :, None] >> shifts_4) & 0xFFFF).flatten(1)[:, :num]
    return _quantiles(keys_B.device).take(places_Bn)


def mix(words: Tensor) -> Tensor:
    """`keyed_random.mix` for int64 tensors, which wrap around as uint64 do."""
    words = words + _GAMMA
    words = (words ^ _shift_right(words, 30)) * _MULTIPLY_1
    words = (words ^ _shift_right(words, 27)) * _MULTIPLY_2
    return words ^ _shift_right(words, 31)


_GAMMA = 0x9E3779B97F4A7C15 - 2**64
_MULTIPLY_1 = 0xBF58476D1CE4E5B9 - 2**64
_MULTIPLY_2 = 0x94D049BB133111EB - 2**64


def _shift_right(words: Tensor, num_bits: int) -> Tensor:
    """A logical shift, which fills with zeros: torch's fills with the sign."""
    shifted: Tensor = (words >> num_bits) & (2 ** (64 - num_bits) - 1)
    return shifted


@cache
def _quantiles(device: torch.device) -> Tensor:
    """Computed on the CPU, so that every device has the same ones."""
    middles = (torch.arange(2**16, dtype=torch.float64) + 0.5) / 2**16
    quantiles: Tensor = torch.special.ndtri(middles)
    return quantiles.float().to(device)


def erase(images_BCHW: Tensor, boxes_B4: Tensor, colors_BC: Tensor) -> Tensor:
    """Each box (top, left, height, width) filled with its color, on the scale [0, 255]."""
    top_B1, left_B1, height_B1, width_B1 = boxes_B4.T[:, :, None]
    rows_H, cols_W = (torch.arange(length, device=images_BCHW.device) for length in images_BCHW.shape[2:])
    rows_BH = (rows_H >= top_B1) & (rows_H < top_B1 + height_B1)
    cols_BW = (cols_W >= left_B1) & (cols_W < left_B1 + width_B1)
    inside_B1HW = (rows_BH[:, :, None] & cols_BW[:, None])[:, None]
    return torch.where(inside_B1HW, colors_BC[:, :, None, None], images_BCHW)
