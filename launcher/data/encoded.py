"""The images of a batch as files from the shards, decoded when and where they are wanted."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from launcher.augment.images import INT64, PackedImages, pack_side_by_side
from launcher.data.bad_samples import BadSamples
from launcher.data.decode import Encoded, Pixels, open_image
from launcher.data.order import Ids
from launcher.data.reader import SampleReader
from launcher.errors import DataError

_SIZE_OF_NONE = (512, 512)
"""Pixels, where a whole batch is left out."""


@dataclass(slots=True)
class InputTimes:
    """Seconds of reading, decoding and, on a CPU, augmenting, summed over threads; of waiting for them; of copying to a
    GPU. And the images that were read, with the sum of their longer sides in pixels."""

    read_s: float = 0.0
    decode_s: float = 0.0
    augment_s: float = 0.0
    wait_s: float = 0.0
    copy_s: float = 0.0
    num_images: int = 0
    long_sides: int = 0

    def add(self, other: InputTimes) -> None:
        for name in (each.name for each in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def since(self, earlier: InputTimes) -> InputTimes:
        """What came after `earlier`, a copy of this."""
        return InputTimes(*(getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)))


@dataclass(frozen=True)
class EncodedBatch:
    """Image files of one batch, in order. A `ImageBatch`.

    `scratch_N`: where single images are decoded, one over the other, so that their bytes stay in the caches.
    """

    encoded: tuple[Encoded, ...]
    ids_B: Ids
    sizes_B2: INT64
    scratch_N: Pixels
    times: InputTimes
    bad_samples: BadSamples

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def is_bytes(self) -> bool:
        return True

    def part(self, numbers: slice) -> EncodedBatch:
        return replace(self, encoded=self.encoded[numbers], ids_B=self.ids_B[numbers], sizes_B2=self.sizes_B2[numbers])

    def image(self, number: int) -> Tensor:
        """Raise DataError when it is damaged, and not to be left out."""
        height, width = self.encoded[number].size
        image_HWC = self.scratch_N[: height * width * 3].reshape(height, width, 3)
        self._decode(number, image_HWC)
        return torch.from_numpy(image_HWC)

    def canvas(self) -> Tensor:
        """Raise DataError when one is damaged, and not to be left out."""
        return self.decode().canvas()

    def decode(self, is_pinned: bool = False) -> PackedImages:
        """All of them. Raise DataError when one is damaged, and not to be left out."""
        starts_B, num_pixels = pack_side_by_side(self.sizes_B2)
        pixels_PC = torch.empty(num_pixels, 3, dtype=torch.uint8, pin_memory=is_pinned)
        bytes_PC = pixels_PC.numpy()
        for number, (start, (height, width)) in enumerate(zip(starts_B.tolist(), self.sizes_B2.tolist(), strict=True)):
            self._decode(number, bytes_PC[start : start + height * width].reshape(height, width, 3))
        return PackedImages(pixels_PC, starts_B, self.sizes_B2)

    def _decode(self, number: int, out_HWC: Pixels) -> None:
        start = time.perf_counter()
        try:
            self.encoded[number].decode(out_HWC)
        except DataError as error:
            self.bad_samples.note(int(self.ids_B[number]), error)
            out_HWC[:] = 0
        self.times.decode_s += time.perf_counter() - start


def open_sample(reader: SampleReader, sample_id: int, min_side: int | None) -> tuple[Encoded, int]:
    """An image, as `open_image` opens it, and its label. Raise DataError when it is none."""
    sample = reader.read(sample_id)
    return open_image(sample.content, sample.place, min_side), sample.label


@dataclass(frozen=True)
class _BlackImage:
    """In the place of an image that is left out, as large as another of its batch."""

    size: tuple[int, int]

    def decode(self, out_HWC: Pixels) -> None:
        out_HWC[:] = 0


def read_files(
    reader: SampleReader, ids_B: Ids, min_side: int | None, times: InputTimes, bad_samples: BadSamples
) -> tuple[EncodedBatch, Tensor]:
    """The files of these ids and labels_B; for padding, -1, those of image 0.

    Raise DataError when one is no image, and not to be left out.
    """
    start = time.perf_counter()
    wanted_B = np.maximum(ids_B, 0)
    opened = [_open(reader, i, min_side, bad_samples) for i in wanted_B.tolist()]
    size = next((each[0].size for each in opened if each is not None), _SIZE_OF_NONE)
    encoded = tuple(_BlackImage(size) if each is None else each[0] for each in opened)
    labels = [0 if each is None else each[1] for each in opened]
    sizes_B2 = np.array([each.size for each in encoded], dtype=np.int64)
    scratch_N = np.empty(3 * int(sizes_B2.prod(axis=1).max()), dtype=np.uint8)
    times.read_s += time.perf_counter() - start
    times.num_images += len(encoded)
    times.long_sides += int(sizes_B2.max(axis=1).sum())
    return EncodedBatch(encoded, wanted_B, sizes_B2, scratch_N, times, bad_samples), torch.tensor(labels)


def _open(
    reader: SampleReader, sample_id: int, min_side: int | None, bad_samples: BadSamples
) -> tuple[Encoded, int] | None:
    """As `open_sample`; None for what is left out."""
    try:
        return open_sample(reader, sample_id, min_side)
    except DataError as error:
        bad_samples.note(sample_id, error)
        return None
