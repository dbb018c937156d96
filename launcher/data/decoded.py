"""Decoded images: those of a batch, on their way to the device, and those of a whole split, decoded once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from launcher.augment.arrays import INT64
from launcher.augment.images import PackedImages, pack_side_by_side
from launcher.data.encoded import open_sample
from launcher.data.ids import Ids
from launcher.data.reader import SampleReader
from launcher.data.side_stream import Mark

_SAMPLES = 64
"""Images from which the pixels of a split are estimated."""


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """A batch of decoded images. `view`: number of the augmented view to make of them.

    `ready`: the end of their decoding on a GPU; None: they are decoded.
    """

    images: PackedImages
    labels_B: Tensor
    weights_B: Tensor
    ids_B: Ids
    view: int
    ready: Mark | None = None

    def to(self, device: torch.device) -> DecodedBatch:
        labels_B, weights_B = (values_B.pin_memory().to(device, non_blocking=True) for values_B in self.tensors[1:])
        return replace(self, images=self.images.to(device), labels_B=labels_B, weights_B=weights_B)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.images.pixels_PC, self.labels_B, self.weights_B


@dataclass(frozen=True)
class DecodedCache:
    """All images of a split decoded, in the order of their ids, in memory that the ranks of a node share."""

    images: PackedImages
    labels_N: Ids

    def take(self, ids_B: Ids) -> tuple[PackedImages, Tensor]:
        """Images and labels_B, no pixel copied; for padding, -1, those of image 0."""
        rows = np.maximum(ids_B, 0)
        return self.images.part(rows), torch.from_numpy(self.labels_N[rows])

    def to(self, device: torch.device) -> DecodedCache:
        return replace(self, images=self.images.to(device))

    def fill(self, reader: SampleReader, ids: Ids, min_side: int | None, workers: int) -> None:
        """Decode these images to their places. Raise DataError when one is damaged."""

        def decode(i: int) -> None:
            encoded, _ = open_sample(reader, i, min_side)
            encoded.decode(self.images.image(i).numpy())

        with ThreadPoolExecutor(max(workers, 1), "decode") as pool:
            for _ in pool.map(decode, ids.tolist()):
                pass


def lay_out(headers_N3: INT64, pixels_PC: Tensor) -> DecodedCache:
    """A cache, still to be filled, with its images one after the other in `pixels_PC`."""
    sizes_N2 = headers_N3[:, :2]
    return DecodedCache(PackedImages(pixels_PC, pack_side_by_side(sizes_N2)[0], sizes_N2), headers_N3[:, 2].copy())


def scan_headers(reader: SampleReader, ids: Ids, min_side: int | None) -> INT64:
    """Height, width and label of each image: headers_N3. Raise DataError when one is not an image."""
    headers_N3: INT64 = np.empty((len(ids), 3), dtype=np.int64)
    for row, i in enumerate(ids.tolist()):
        encoded, label = open_sample(reader, i, min_side)
        headers_N3[row] = (*encoded.size, label)
    return headers_N3


def estimate_pixels(reader: SampleReader, min_side: int | None) -> int:
    """Pixels of all images together, estimated from some of them."""
    ids = np.unique(np.linspace(0, reader.num_images - 1, _SAMPLES).astype(np.int64))
    return int(scan_headers(reader, ids, min_side)[:, :2].prod(axis=1).mean() * reader.num_images)
