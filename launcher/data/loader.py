"""Ids -> batches on the device, read and decoded by threads ahead of the training.

Where the training is on a CPU, the threads augment too, a few images at a time while their pixels are in the caches.
Where it is on a GPU, they decode into pinned memory, which is copied beside the computation, one batch ahead.

B batch, C channels, h x w pixels after augmentation.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import groupby, islice
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from launcher.augment.groups import send
from launcher.augment.images import ImageBatch, PackedImages
from launcher.data.bad_samples import BadSamples, FailOnBadSample
from launcher.data.decoded import DecodedBatch, DecodedCache
from launcher.data.encoded import EncodedBatch, InputTimes, read_batch
from launcher.data.ids import Ids, Work
from launcher.data.nvjpeg import nvjpeg_on
from launcher.data.reader import SampleReader
from launcher.data.side_stream import Mark, SideStream
from launcher.data.threads import LoadThreads

INLINE_PIXELS = 64 * 64
"""Decoded images no larger than this are augmented in the training's own thread: handing them over takes longer."""

INLINE_IMAGES = 128
"""Images augmented per call, across batches: 8 cost as much as 30."""

AugmentBatch = Callable[[ImageBatch, Ids, int], Tensor]
"""(images, ids_B, view) -> images_BChw, on the device of the images; encoded images are decoded on the way."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Augmented images of `view`. `weights_B`: 1 counts, 0 is padding or skipped; `ids_B`: sample ids, on the CPU."""

    images_BChw: Tensor
    labels_B: Tensor
    weights_B: Tensor
    ids_B: Ids
    view: int

    def part(self, rows: slice) -> Batch:
        return Batch(self.images_BChw[rows], self.labels_B[rows], self.weights_B[rows], self.ids_B[rows], self.view)


class Loader:
    """Batches of one split. `times`: time spent on them so far."""

    def __init__(
        self,
        reader: SampleReader,
        workers: int,
        device: torch.device,
        min_side: int | None = None,
        decodes_on_device: bool = False,
        bad_samples: BadSamples | None = None,
    ) -> None:
        """`min_side`: as for `open_image`. `bad_samples`: policy for unreadable images; None: the run fails."""
        self.bad_samples = FailOnBadSample() if bad_samples is None else bad_samples
        self.times = InputTimes()
        self.decodes_on_device = decodes_on_device
        self.reader = reader
        self.min_side = min_side
        self.workers = workers
        self._device = device
        self._is_cpu = device.type == "cpu"
        self._nvjpeg = nvjpeg_on(device) if decodes_on_device else None
        self._decoded: DecodedCache | None = None
        self._is_inline = False
        self._threads = LoadThreads(workers, device)

    @property
    def is_decoded(self) -> bool:
        return self._decoded is not None

    @property
    def device_bytes(self) -> int:
        """Memory of a GPU that its cache takes."""
        return 0 if self._decoded is None or not self._is_on_device else self._decoded.images.pixels_PC.nbytes

    def use_decoded(self, decoded: DecodedCache | None) -> None:
        """From now on take images from this cache and read nothing; None: read them again."""
        self._decoded = decoded
        self._is_inline = False
        if decoded is not None and self._is_cpu:
            self._is_inline = int(decoded.images.sizes_B2.prod(axis=1).mean()) <= INLINE_PIXELS

    def batches(self, work: Work, augment: AugmentBatch) -> Iterator[Batch]:
        """A batch on the device for each array of ids, in order.

        On a CPU threads augment; on a GPU threads decode, and the training's own thread queues the augmentation.
        An unreadable image is replaced by another one of its batch, with weight 0; raise DataError where the policy is
        to fail.
        """
        if self._decoded is None:
            work = self.reader.look_ahead(work)
        if self._is_cpu:
            load = partial(self._load_augmented, augment)
            yield from self._load_inline(work, load) if self._is_inline else self._threads.load(work, load, self.times)
            return
        bytes_of = None if self._is_on_device else _num_bytes  # cached there: its batches have no memory of their own
        loaded = self._threads.load(work, self._load_decoded, self.times, bytes_of=bytes_of)
        for batch in loaded if self._is_on_device else _copy_ahead(loaded, self._copies, self.times):
            images_BChw = augment(batch.images, batch.ids_B, batch.view)
            yield self._replace_skipped(Batch(images_BChw, batch.labels_B, batch.weights_B, batch.ids_B, batch.view))

    def close(self) -> None:
        self._threads.close()

    def _load_inline(self, work: Work, load: Callable[[int, Ids, InputTimes], Batch]) -> Iterator[Batch]:
        """In the training's own thread; neighboring batches of one view are loaded together."""
        sizes: deque[int] = deque()

        def joined() -> Iterator[tuple[int, Ids]]:
            for view, batches in groupby(work, key=itemgetter(0)):
                for _, first_B in batches:
                    more = islice(batches, max(0, INLINE_IMAGES // len(first_B) - 1))  # noqa: B031 - continues there
                    group = [first_B, *(ids_B for _, ids_B in more)]
                    sizes.extend(map(len, group))
                    yield view, np.concatenate(group)

        for whole in self._threads.load(joined(), load, self.times, is_inline=True):
            stop = 0
            while stop < len(whole.ids_B):
                start, stop = stop, stop + sizes.popleft()
                yield whole.part(slice(start, stop))

    def _load_augmented(self, augment: AugmentBatch, view: int, ids_B: Ids, times: InputTimes) -> Batch:
        images, labels_B = self._open(ids_B, times)
        start, decoded_s = time.perf_counter(), times.decode_s
        images_BChw = augment(images, ids_B, view)
        times.augment_s += time.perf_counter() - start - (times.decode_s - decoded_s)
        return self._replace_skipped(Batch(images_BChw, labels_B, _weights(ids_B), ids_B, view))

    def _load_decoded(self, view: int, ids_B: Ids, times: InputTimes) -> DecodedBatch:
        images, labels_B = self._open(ids_B, times)
        ready = None
        if isinstance(images, EncodedBatch):
            if self._nvjpeg is None:
                images = images.decode(is_pinned=True)
            else:
                images, ready = self._nvjpeg.decode(images)
        batch = DecodedBatch(images, labels_B, _weights(ids_B), ids_B, view, ready)
        return batch.to(self._device) if self._is_on_device else batch

    @cached_property
    def _copies(self) -> SideStream:
        """One for all passes: they share its memory."""
        return SideStream(self._device)

    @property
    def _is_on_device(self) -> bool:
        return self._decoded is not None and self._decoded.images.device.type != "cpu"

    def _open(self, ids_B: Ids, times: InputTimes) -> tuple[EncodedBatch | PackedImages, Tensor]:
        """Images, read or from the cache, and labels_B."""
        if self._decoded is None:
            return read_batch(self.reader, ids_B, self.min_side, times, self.bad_samples)
        start = time.perf_counter()
        images, labels_B = self._decoded.take(ids_B)
        if not self._is_cpu and not self._is_on_device:
            images = images.copy_pinned()
        times.read_s += time.perf_counter() - start
        return images, labels_B

    def _replace_skipped(self, batch: Batch) -> Batch:
        """Another image of the batch, and its label, in place of each skipped one, with weight 0."""
        is_skipped_B = self.bad_samples.among(batch.ids_B)
        if not is_skipped_B.any():
            return batch
        rows = send(torch.from_numpy(np.flatnonzero(is_skipped_B)), batch.weights_B.device)
        batch.weights_B[rows] = 0
        is_whole_B = ~is_skipped_B & (batch.ids_B >= 0)
        if is_whole_B.any():
            whole = int(is_whole_B.argmax())
            batch.images_BChw[rows] = batch.images_BChw[whole].clone()
            batch.labels_B[rows] = batch.labels_B[whole].clone()  # mixing gives a part of it to the neighbor
        return batch


def _weights(ids_B: Ids) -> Tensor:
    return torch.from_numpy((ids_B >= 0).astype(np.int64))


def _num_bytes(batch: DecodedBatch) -> int:
    return batch.images.pixels_PC.nbytes


def _copy_ahead(batches: Iterator[DecodedBatch], stream: SideStream, times: InputTimes) -> Iterator[DecodedBatch]:
    """The batches on the GPU; while one is used, the next is copied. Adds the time of the copies to `times`."""
    copies: deque[tuple[Mark, Mark]] = deque()

    def send(batch: DecodedBatch) -> tuple[DecodedBatch, Mark]:
        with stream.entered():
            if batch.ready is not None:
                stream.wait_for(batch.ready)
            start = stream.mark()
            sent = batch.to(stream.device)
            end = stream.mark()
        copies.append((start, end))
        return sent, end

    coming = map(send, batches)
    ahead = next(coming, None)
    while ahead is not None:
        batch, arrived = ahead
        ahead = next(coming, None)
        stream.hand_over(batch.tensors, arrived)
        while copies and copies[0][1].query():  # type: ignore[no-untyped-call]  # finished ones only: nothing waits
            start, end = copies.popleft()
            times.copy_s += start.elapsed_time(end) / 1000
        yield batch
