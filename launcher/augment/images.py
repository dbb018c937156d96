"""Decoded images of different sizes, packed one after another into one block of bytes, as they are sent to a device.

B images; H x W pixels of one of them, or of the smallest canvas that holds them all; P pixels of the block; C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from launcher.augment.arrays import INT64
from launcher.augment.draw import whole_boxes
from launcher.augment.groups import on_device


class ImageBatch(Protocol):
    """Images of known sizes: `PackedImages`, or files that are decoded when their pixels are needed."""

    @property
    def sizes_B2(self) -> INT64:  # noqa: N802 - the shape's suffix
        """Height and width of each."""

    @property
    def device(self) -> torch.device: ...

    @property
    def is_uint8(self) -> bool:
        """Whether pixels are uint8, as those of decoded images are."""

    def part(self, numbers: slice) -> ImageBatch:
        """Some of them; no pixel is touched."""

    def image(self, number: int) -> Tensor:
        """image_HWC, valid until the next call."""

    def canvas(self) -> Tensor:
        """canvas_BCHW: all of them, each in the top left corner of its canvas, zero elsewhere; channels last."""


@dataclass(frozen=True, slots=True)
class PackedImages:
    """An `ImageBatch` in one block. `pixels_PC`: row by row; `starts_B`: first pixel of each image.

    Starts and sizes stay on the CPU, where augmentation parameters are drawn.
    """

    pixels_PC: Tensor
    starts_B: INT64
    sizes_B2: INT64

    @property
    def device(self) -> torch.device:
        return self.pixels_PC.device

    @property
    def is_uint8(self) -> bool:
        return self.pixels_PC.dtype == torch.uint8

    def part(self, numbers: slice | INT64) -> PackedImages:
        return PackedImages(self.pixels_PC, self.starts_B[numbers], self.sizes_B2[numbers])

    def to(self, device: torch.device) -> PackedImages:
        return PackedImages(self.pixels_PC.to(device, non_blocking=True), self.starts_B, self.sizes_B2)

    def copy_pinned(self) -> PackedImages:
        """These images alone, in pinned memory."""
        starts_B, num_pixels = pack_side_by_side(self.sizes_B2)
        pixels_PC = self.pixels_PC.new_empty((num_pixels, self.pixels_PC.shape[1]), pin_memory=True)
        torch.cat([self.image(i).flatten(0, 1) for i in range(len(starts_B))], out=pixels_PC)
        return PackedImages(pixels_PC, starts_B, self.sizes_B2)

    def image(self, number: int) -> Tensor:
        """image_HWC, not copied."""
        start, (height, width) = int(self.starts_B[number]), self.sizes_B2[number].tolist()
        return self.pixels_PC[start : start + height * width].view(height, width, -1)

    def canvas(self) -> Tensor:
        """Not copied where the images have one size and lie side by side."""
        (height, width), channels = self.sizes_B2.max(axis=0).tolist(), self.pixels_PC.shape[1]
        area = height * width
        if (self.sizes_B2 == self.sizes_B2[0]).all() and not (self.starts_B % area).any():
            every_NHWC = self.pixels_PC[: len(self.pixels_PC) // area * area].view(-1, height, width, channels)
            return self._rows(every_NHWC, self.starts_B // area).permute(0, 3, 1, 2)
        if self.device.type == "cpu":
            canvas_BHWC = self.pixels_PC.new_zeros(len(self.starts_B), height, width, channels)
            for number, (tall, wide) in enumerate(self.sizes_B2.tolist()):
                canvas_BHWC[number, :tall, :wide] = self.image(number)
            return canvas_BHWC.permute(0, 3, 1, 2)
        return self._gathered(whole_boxes(self.sizes_B2))

    def boxes(self, boxes_B4: INT64) -> Tensor:
        """canvas_BCHW of each image's box (top, left, height, width) alone."""
        if np.array_equal(boxes_B4, whole_boxes(self.sizes_B2)):
            return self.canvas()
        return self._gathered(boxes_B4)

    def _rows(self, every_NHWC: Tensor, rows_B: INT64) -> Tensor:
        first = int(rows_B[0])
        if np.array_equal(rows_B, np.arange(first, first + len(rows_B))):
            return every_NHWC[first : first + len(rows_B)]
        return every_NHWC.index_select(0, on_device(rows_B, self.pixels_PC))

    def _gathered(self, boxes_B4: INT64) -> Tensor:
        """canvas_BCHW by one gather; a loop would launch a kernel for each image."""
        height, width = boxes_B4[:, 2:].max(axis=0).tolist()
        corners_B = self.starts_B + boxes_B4[:, 0] * self.sizes_B2[:, 1] + boxes_B4[:, 1]
        numbers_4B = on_device(np.stack([corners_B, self.sizes_B2[:, 1], *boxes_B4[:, 2:].T]), self.pixels_PC)
        corners_B11, strides_B11, heights_B11, widths_B11 = numbers_4B[:, :, None, None].unbind()
        rows_H1 = torch.arange(height, device=self.device)[:, None]
        cols_W = torch.arange(width, device=self.device)
        inside_BHW = (rows_H1 < heights_B11) & (cols_W < widths_B11)
        # In place: these eight bytes a pixel are the most that it takes.
        places_BHW = (corners_B11 + rows_H1 * strides_B11 + cols_W).mul_(inside_BHW)
        canvas_BHWC: Tensor = self.pixels_PC[places_BHW]
        return canvas_BHWC.mul_(inside_BHW[..., None]).permute(0, 3, 1, 2)


def pack_side_by_side(sizes_B2: INT64) -> tuple[INT64, int]:
    """starts_B of images of these sizes, one after the other, and their pixels together."""
    ends_B = sizes_B2.prod(axis=1).cumsum()
    return np.concatenate([[0], ends_B[:-1]]), int(ends_B[-1])


def packed_images_of(images_BCHW: Tensor) -> PackedImages:
    """A batch of images of one size."""
    batch, channels, height, width = images_BCHW.shape
    pixels_PC = images_BCHW.permute(0, 2, 3, 1).contiguous().view(-1, channels)
    sizes_B2 = np.tile(np.array([height, width], dtype=np.int64), (batch, 1))
    return PackedImages(pixels_PC, np.arange(batch, dtype=np.int64) * height * width, sizes_B2)
