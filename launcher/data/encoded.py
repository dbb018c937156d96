"""The images of a batch as files, decoded when and where their pixels are needed."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from launcher.augment.arrays import INT64, UINT8
from launcher.augment.images import PackedImages, pack_side_by_side
from launcher.data.bad_samples import BadSamples
from launcher.data.decode import EncodedImage, open_image
from launcher.data.ids import Ids
from launcher.data.reader import SampleReader
from launcher.errors import DataError

_SIZE_IF_ALL_SKIPPED = (512, 512)
"""Height and width of the images of a batch that is skipped whole."""


@dataclass(slots=True)
class InputTimes:
    """Seconds spent on input so far; reading, decoding and augmenting are summed over threads."""

    read_s: float = 0.0
    decode_s: float = 0.0
    augment_s: float = 0.0
    """Zero where a GPU augments."""
    wait_s: float = 0.0
    """Time that training waited for batches."""
    copy_s: float = 0.0
    """Time of copies to a GPU."""
    num_images: int = 0
    long_sides: int = 0
    """Sum of the longer sides of the images that were read, in pixels."""

    def add(self, other: InputTimes) -> None:
        for name in (each.name for each in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def since(self, earlier: InputTimes) -> InputTimes:
        """The difference from `earlier`, a copy of this."""
        return InputTimes(*(getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)))


@dataclass(frozen=True)
class EncodedBatch:
    """Image files of one batch, in order: an `ImageBatch`.

    `scratch_N`: memory for one decoded image, used again for the next, so that its bytes stay in the caches.
    """

    images: tuple[EncodedImage, ...]
    ids_B: Ids
    sizes_B2: INT64
    scratch_N: UINT8
    times: InputTimes
    bad_samples: BadSamples
    device: ClassVar = torch.device("cpu")
    is_uint8: ClassVar = True

    def part(self, numbers: slice) -> EncodedBatch:
        return replace(self, images=self.images[numbers], ids_B=self.ids_B[numbers], sizes_B2=self.sizes_B2[numbers])

    def image(self, number: int) -> Tensor:
        """Raise DataError when it is damaged and the policy is to fail."""
        height, width = self.images[number].size
        image_HWC = self.scratch_N[: height * width * 3].reshape(height, width, 3)
        self._decode(number, image_HWC)
        return torch.from_numpy(image_HWC)

    def canvas(self) -> Tensor:
        """Raise DataError when one is damaged and the policy is to fail."""
        return self.decode().canvas()

    def decode(self, is_pinned: bool = False) -> PackedImages:
        """All images decoded. Raise DataError when one is damaged and the policy is to fail."""
        starts_B, num_pixels = pack_side_by_side(self.sizes_B2)
        pixels_PC = torch.empty(num_pixels, 3, dtype=torch.uint8, pin_memory=is_pinned)
        bytes_PC = pixels_PC.numpy()
        for number, (start, (height, width)) in enumerate(zip(starts_B.tolist(), self.sizes_B2.tolist(), strict=True)):
            self._decode(number, bytes_PC[start : start + height * width].reshape(height, width, 3))
        return PackedImages(pixels_PC, starts_B, self.sizes_B2)

    def _decode(self, number: int, out_HWC: UINT8) -> None:
        start = time.perf_counter()
        try:
            self.images[number].decode(out_HWC)
        except DataError as error:
            self.bad_samples.note(int(self.ids_B[number]), error)
            out_HWC[:] = 0
        self.times.decode_s += time.perf_counter() - start


def open_sample(reader: SampleReader, sample_id: int, min_side: int | None) -> tuple[EncodedImage, int]:
    """An image and its label. Raise DataError when it is not an image."""
    sample = reader.read(sample_id)
    return open_image(sample.content, sample.place, min_side), sample.label


@dataclass(frozen=True)
class _BlackImage:
    """Stands in for a skipped image, as large as another one of its batch."""

    size: tuple[int, int]

    def decode(self, out_HWC: UINT8) -> None:
        out_HWC[:] = 0


def read_batch(
    reader: SampleReader, ids_B: Ids, min_side: int | None, times: InputTimes, bad_samples: BadSamples
) -> tuple[EncodedBatch, Tensor]:
    """The files of these ids, and labels_B; for padding, -1, those of image 0.

    Raise DataError when one is not an image and the policy is to fail.
    """
    start = time.perf_counter()
    read_B = np.maximum(ids_B, 0)
    opened: list[tuple[EncodedImage | None, int]] = []
    for sample_id in read_B.tolist():
        try:
            opened.append(open_sample(reader, sample_id, min_side))
        except DataError as error:
            bad_samples.note(sample_id, error)
            opened.append((None, 0))
    size = next((image.size for image, _ in opened if image is not None), _SIZE_IF_ALL_SKIPPED)
    images = tuple(image or _BlackImage(size) for image, _ in opened)
    sizes_B2 = np.array([each.size for each in images], dtype=np.int64)
    scratch_N = np.empty(3 * int(sizes_B2.prod(axis=1).max()), dtype=np.uint8)
    times.read_s += time.perf_counter() - start
    times.num_images += len(images)
    times.long_sides += int(sizes_B2.max(axis=1).sum())
    labels_B = torch.tensor([label for _, label in opened])
    return EncodedBatch(images, read_B, sizes_B2, scratch_N, times, bad_samples), labels_B
