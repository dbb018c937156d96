"""JPEG decoded on a GPU by nvJPEG, through torchvision.

Torchvision 0.29 warns that a later release will leave this to TorchCodec; without it the CPU decodes.
"""

from __future__ import annotations

import re
import threading
import time
from functools import cache

import torch
import torchvision.io
from torch import Tensor
from torch.nn.functional import avg_pool2d

from launcher.augment.images import PackedImages, pack_side_by_side
from launcher.data.decode import Jpeg
from launcher.data.encoded import EncodedBatch
from launcher.data.side_stream import Mark, SideStream

_NO_MEMORY = re.compile(r"out of memory|Failed to [^:]*: 5\b")
"""In the RuntimeError that torchvision makes of everything: torch's words, or nvJPEG's status 5, its allocator's."""


class NvJpeg:
    """nvJPEG on one GPU. Thread-safe: one thread at a time decodes.

    nvJPEG writes its results at once, on a stream of torchvision's, and its hardware engine does not wait for events.
    Memory from the training's stream may still be read there, by what is queued: decoded into it, images of one batch
    appear in another. So results are allocated on `stream`, which only `decode` uses, and the host waits until nothing
    is queued on it. The lock keeps the next thread from queueing anything between that wait and its own decoding.
    """

    def __init__(self, stream: SideStream) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def is_available(self) -> bool:
        """Whether torchvision has nvJPEG and it works on this GPU. Raise OutOfMemoryError."""
        try:
            content = torchvision.io.encode_jpeg(torch.zeros(3, 8, 8, dtype=torch.uint8))
            with self._lock, self._stream.entered():
                self._stream.drain()
                return self._decode([content.numpy().tobytes()]) is not None
        except torch.OutOfMemoryError:
            raise
        except (AttributeError, RuntimeError):
            return False

    def decode(self, batch: EncodedBatch) -> tuple[PackedImages, Mark | None]:
        """All images on the GPU once the mark is reached; or all in pinned memory, without a mark, where it cannot.

        Other formats than JPEG are decoded by the CPU and copied. Within a few levels of 255 of `EncodedBatch.decode`:
        the two interpolate colors differently. Raise DataError when an image is damaged and the policy is to fail,
        OutOfMemoryError when the GPU has no room.
        """
        jpegs = {row: each.content for row, each in enumerate(batch.images) if isinstance(each, Jpeg)}
        if jpegs:
            others = {row: batch.image(row).clone() for row in range(len(batch.images)) if row not in jpegs}
            with self._lock, self._stream.entered():
                self._stream.drain()
                start = time.perf_counter()
                decoded = self._decode(list(jpegs.values()))
                batch.times.decode_s += time.perf_counter() - start
                if decoded is not None:
                    images = self._place(batch, dict(zip(jpegs, decoded, strict=True)), others)
                    return images, self._stream.mark()
        # Nothing to decode, an unsupported kind of JPEG, or a damaged one: the CPU finds out.
        return batch.decode(is_pinned=self._stream.device.type == "cuda"), None

    def _decode(self, contents: list[bytes]) -> list[Tensor] | None:
        """images_CHW of any sizes; None where some content is not for nvJPEG."""
        try:
            return _decode_jpegs(contents, self._stream.device)
        except RuntimeError as error:
            if _NO_MEMORY.search(str(error)):
                raise torch.OutOfMemoryError(str(error)) from error
            return None

    def _place(self, batch: EncodedBatch, decoded: dict[int, Tensor], others: dict[int, Tensor]) -> PackedImages:
        """All images side by side, by their rows in the batch."""
        starts_B, num_pixels = pack_side_by_side(batch.sizes_B2)
        pixels_PC = torch.empty(num_pixels, 3, dtype=torch.uint8, device=self._stream.device)
        images = PackedImages(pixels_PC, starts_B, batch.sizes_B2)
        for row, image_CHW in decoded.items():
            place_HWC = images.image(row)
            place_HWC.copy_(_reduce(image_CHW, image_CHW.shape[1] // place_HWC.shape[0]).permute(1, 2, 0))
        for row, image_HWC in others.items():
            images.image(row).copy_(image_HWC)
        return images


@cache
def nvjpeg_on(device: torch.device) -> NvJpeg:
    """One for all loaders of this process: they share the memory of its stream."""
    return NvJpeg(SideStream(device))


def _decode_jpegs(contents: list[bytes], device: torch.device) -> list[Tensor]:
    tensors = [torch.frombuffer(bytearray(content), dtype=torch.uint8) for content in contents]
    images: list[Tensor] = torchvision.io.decode_jpeg(tensors, torchvision.io.ImageReadMode.RGB, device=device)
    return images


def _reduce(image_CHW: Tensor, reduction: int) -> Tensor:
    """The image at the size at which libjpeg-turbo would have decoded it."""
    return image_CHW if reduction == 1 else avg_pool2d(image_CHW.float(), reduction).round_().to(torch.uint8)
