"""The images of a batch as files from the shards, decoded when and where they are wanted."""

from __future__ import annotations

import time
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from launcher.data.decode import Encoded, open_image
from launcher.data.order import Ids
from launcher.data.reader import ShardReader
from launcher.images import INT64, Images, lay_side_by_side


@dataclass(slots=True)
class Times:
    """Seconds of reading, decoding and, on a CPU, augmenting, summed over threads; of waiting for them; of copying to a
    GPU. And the images that were read, with the sum of their longer sides in pixels."""

    read_s: float = 0.0
    decode_s: float = 0.0
    augment_s: float = 0.0
    wait_s: float = 0.0
    copy_s: float = 0.0
    num_images: int = 0
    long_sides: int = 0

    def add(self, other: Times) -> None:
        for name in (each.name for each in fields(self)):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def since(self, earlier: Times) -> Times:
        """What came after `earlier`, a copy of this."""
        return Times(*(getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)))


@dataclass(frozen=True)
class Files:
    """Image files of one batch, in order. A `Source`."""

    encoded: tuple[Encoded, ...]
    sizes_B2: INT64
    channels: int
    is_pinned: bool
    times: Times

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def part(self, numbers: slice) -> Images:
        """Decode some. Raise DataError when one is damaged."""
        start = time.perf_counter()
        sizes_B2 = self.sizes_B2[numbers]
        starts_B, num_pixels = lay_side_by_side(sizes_B2)
        pixels_PC = torch.empty(num_pixels, self.channels, dtype=torch.uint8, pin_memory=self.is_pinned)
        images = Images(pixels_PC, starts_B, sizes_B2)
        for number, encoded in enumerate(self.encoded[numbers]):
            encoded.decode(images.image(number).numpy())
        self.times.decode_s += time.perf_counter() - start
        return images


def read_files(reader: ShardReader, ids_B: Ids, channels: int, is_pinned: bool, times: Times) -> tuple[Files, Tensor]:
    """The files of these ids and labels_B; for padding, -1, those of image 0. Raise DataError when one is no image."""
    start = time.perf_counter()
    samples = [reader.read(max(i, 0)) for i in ids_B.tolist()]
    encoded = tuple(open_image(sample.content, sample.place) for sample in samples)
    sizes_B2 = np.array([each.size for each in encoded], dtype=np.int64)
    times.read_s += time.perf_counter() - start
    times.num_images += len(samples)
    times.long_sides += int(sizes_B2.max(axis=1).sum())
    return Files(encoded, sizes_B2, channels, is_pinned, times), torch.tensor([sample.label for sample in samples])
