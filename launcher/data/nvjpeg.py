"""JPEG decoded on a GPU by nvJPEG, through torchvision, and whether that is faster here than by the CPU's threads.

Torchvision 0.29 says that a later release will leave it to TorchCodec, and warns of it; without it the CPU decodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
import torchvision.io
from torch import Tensor
from torch.nn.functional import avg_pool2d

from launcher.augment.images import PackedImages, pack_side_by_side
from launcher.data.bad_samples import FailOnBadSample
from launcher.data.decode import Jpeg
from launcher.data.encoded import EncodedBatch, InputTimes, read_files
from launcher.data.reader import SampleReader
from launcher.errors import DataError

PROBE_IMAGES = 128
"""Decoded both ways to find the faster."""


def is_there(device: torch.device) -> bool:
    """Whether torchvision has it and it works on this device."""
    try:
        content = torchvision.io.encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8))
        _decode_batch([content.numpy().tobytes()], device)
    except (AttributeError, RuntimeError):
        return False
    return True


def decode_files(files: EncodedBatch, device: torch.device) -> PackedImages:
    """All of them, on the device. What is no plain JPEG, or nvJPEG does not take, is decoded by the CPU and sent there.

    Within a few levels of 255 of `EncodedBatch.decode`: the two fill up missing colours differently. Raise DataError
    when one is damaged.
    """
    rows = [row for row, each in enumerate(files.encoded) if isinstance(each, Jpeg)]
    contents = [each.content for each in files.encoded if isinstance(each, Jpeg)]
    try:
        start = time.perf_counter()
        decoded = _decode_batch(contents, device) if contents else []
        files.times.decode_s += time.perf_counter() - start
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # of a kind that it cannot decode, or damaged: the CPU tells
        return files.decode(is_pinned=device.type == "cuda").to(device)
    starts_B, num_pixels = pack_side_by_side(files.sizes_B2)
    images = PackedImages(torch.empty(num_pixels, 3, dtype=torch.uint8, device=device), starts_B, files.sizes_B2)
    for row, image_CHW in zip(rows, decoded, strict=True):
        place_HWC = images.image(row)
        place_HWC.copy_(_reduce(image_CHW, image_CHW.shape[1] // place_HWC.shape[0]).permute(1, 2, 0))
    for row in set(range(len(files.encoded))) - set(rows):
        images.image(row).copy_(files.image(row))
    return images


def _decode_batch(contents: list[bytes], device: torch.device) -> list[Tensor]:
    tensors = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    images: list[Tensor] = torchvision.io.decode_jpeg(tensors, torchvision.io.ImageReadMode.RGB, device=device)
    return images


def _reduce(image_CHW: Tensor, part: int) -> Tensor:
    """To the part of its length and width that libjpeg-turbo would have decoded it to."""
    return image_CHW if part == 1 else avg_pool2d(image_CHW.float(), part).round_().to(torch.uint8)


class _IgnoreBadSamples(FailOnBadSample):
    """Ignores bad samples here; training reports them."""

    def note(self, sample_id: int, error: DataError) -> None:
        pass


def time_decoders(
    reader: SampleReader, min_side: int | None, workers: int, device: torch.device
) -> tuple[float, float]:
    """Images a second by the CPU's threads and by the device, of some images of the split. Raise DataError."""
    ids_B = np.unique(np.linspace(0, reader.num_images - 1, PROBE_IMAGES).astype(np.int64))
    files, _ = read_files(reader, ids_B, min_side, InputTimes(), _IgnoreBadSamples())
    parts = [files.part(slice(row, row + 1)) for row in range(len(ids_B))]
    with ThreadPoolExecutor(max(workers, 1), "probe") as pool:
        by_cpu = _rate(len(ids_B), lambda: list(pool.map(EncodedBatch.decode, parts)))
    by_device = _rate(len(ids_B), partial(_decode_and_wait, files, device))
    return by_cpu, by_device


def _decode_and_wait(files: EncodedBatch, device: torch.device) -> None:
    decode_files(files, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(num_images: int, work: Callable[[], object]) -> float:
    """The first time, which sets things up, does not count."""
    work()
    start = time.perf_counter()
    work()
    return num_images / (time.perf_counter() - start)
