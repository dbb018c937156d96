"""JPEG decoded on a GPU by nvJPEG, through torchvision, and its speed beside that of the CPU's threads.

Torchvision 0.29 warns that a later release will leave this to TorchCodec; without it the CPU decodes.
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
from launcher.data.bad_samples import DeferBadSample, FailOnBadSample
from launcher.data.decode import Jpeg
from launcher.data.encoded import EncodedBatch, InputTimes, read_batch
from launcher.data.reader import SampleReader

PROBE_IMAGES = 128
"""Images decoded both ways to find the faster one."""


def has_nvjpeg(device: torch.device) -> bool:
    """Whether torchvision has it and it works on this device."""
    try:
        content = torchvision.io.encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8))
        _decode_jpegs([content.numpy().tobytes()], device)
    except (AttributeError, RuntimeError):
        return False
    return True


def decode_batch(batch: EncodedBatch, device: torch.device) -> PackedImages:
    """All images, decoded on the device; those that nvJPEG cannot decode are decoded by the CPU and copied there.

    Within a few levels of 255 of `EncodedBatch.decode`: the two interpolate colors differently. Raise DataError when
    one is damaged and the policy is to fail.
    """
    rows = [row for row, each in enumerate(batch.images) if isinstance(each, Jpeg)]
    contents = [each.content for each in batch.images if isinstance(each, Jpeg)]
    try:
        start = time.perf_counter()
        decoded = _decode_jpegs(contents, device) if contents else []
        batch.times.decode_s += time.perf_counter() - start
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # an unsupported kind of JPEG, or a damaged one: the CPU finds out
        return batch.decode(is_pinned=device.type == "cuda").to(device)
    starts_B, num_pixels = pack_side_by_side(batch.sizes_B2)
    images = PackedImages(torch.empty(num_pixels, 3, dtype=torch.uint8, device=device), starts_B, batch.sizes_B2)
    for row, image_CHW in zip(rows, decoded, strict=True):
        place_HWC = images.image(row)
        place_HWC.copy_(_reduce(image_CHW, image_CHW.shape[1] // place_HWC.shape[0]).permute(1, 2, 0))
    for row in set(range(len(batch.images))) - set(rows):
        images.image(row).copy_(batch.image(row))
    return images


def _decode_jpegs(contents: list[bytes], device: torch.device) -> list[Tensor]:
    tensors = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    images: list[Tensor] = torchvision.io.decode_jpeg(tensors, torchvision.io.ImageReadMode.RGB, device=device)
    return images


def _reduce(image_CHW: Tensor, reduction: int) -> Tensor:
    """The image at the size at which libjpeg-turbo would have decoded it."""
    return image_CHW if reduction == 1 else avg_pool2d(image_CHW.float(), reduction).round_().to(torch.uint8)


def time_decoders(
    reader: SampleReader, min_side: int | None, workers: int, device: torch.device
) -> tuple[float, float]:
    """Images/s by the CPU's threads and by the device, measured on some images of the split.

    Raise FetchError when a remote shard cannot be fetched.
    """
    ids_B = np.unique(np.linspace(0, reader.num_images - 1, PROBE_IMAGES).astype(np.int64))
    # Ignores bad samples here; training reports them.
    batch, _ = read_batch(reader, ids_B, min_side, InputTimes(), DeferBadSample(FailOnBadSample()))
    parts = [batch.part(slice(row, row + 1)) for row in range(len(ids_B))]
    with ThreadPoolExecutor(max(workers, 1), "probe") as pool:
        by_cpu = _rate(len(ids_B), lambda: list(pool.map(EncodedBatch.decode, parts)))
    by_device = _rate(len(ids_B), partial(_decode_and_wait, batch, device))
    return by_cpu, by_device


def _decode_and_wait(batch: EncodedBatch, device: torch.device) -> None:
    decode_batch(batch, device)
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _rate(num_images: int, work: Callable[[], object]) -> float:
    """Images/s of a second call: the first one, which sets things up, does not count."""
    work()
    start = time.perf_counter()
    work()
    return num_images / (time.perf_counter() - start)
