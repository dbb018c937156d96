"""Ids -> batches on the device, read and decoded by threads ahead of the training.

Threads, not processes: reading, decoding and augmenting leave Python's lock, nothing is copied between processes,
nothing is forked beside running threads, and start and end cost nothing.

Where the training is on a CPU, the threads augment too, a few images at a time while their pixels are in the caches.
Where it is on a GPU, they decode into pinned memory, which is copied beside the computation, one batch ahead.

B batch, C channels, h x w pixels after augmentation.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import itemgetter
from threading import Barrier
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from launcher.augment.images import ImageBatch, PackedImages
from launcher.data.bad_samples import BadSamples, FailOnBadSample
from launcher.data.decoded import DecodedCache
from launcher.data.encoded import EncodedBatch, InputTimes, read_files
from launcher.data.nvjpeg import decode_files
from launcher.data.order import Ids
from launcher.data.reader import SampleReader, Work
from launcher.data.transfer import DecodedBatch, copy_ahead
from launcher.distributed.world import World

T = TypeVar("T")

READ_AHEAD = 2
"""Batches ready beyond those that the threads are working on."""

INLINE_PIXELS = 64 * 64
"""Decoded images no larger than this are augmented in the training's own thread: handing them over takes longer."""

INLINE_IMAGES = 128
"""So many of these are augmented at once, whatever the batch: eight take as long as thirty."""

Prepare = Callable[[ImageBatch, Ids, int], Tensor]
"""(images, ids_B, view) -> images_BChw, on the device of the images."""


@dataclass(frozen=True, slots=True)
class Batch:
    """`images_BChw`: as prepared for `view`; `weights_B`: 1 counts, 0 is padding; `ids_B`: sample ids, on the CPU."""

    images_BChw: Tensor
    labels_B: Tensor
    weights_B: Tensor
    ids_B: Ids
    view: int

    def part(self, rows: slice) -> Batch:
        return Batch(self.images_BChw[rows], self.labels_B[rows], self.weights_B[rows], self.ids_B[rows], self.view)


class Loader:
    """Batches of one split, in the order asked for. `times`: what they cost so far."""

    def __init__(
        self,
        reader: SampleReader,
        workers: int,
        device: torch.device,
        min_side: int | None = None,
        decodes_on_device: bool = False,
        bad_samples: BadSamples | None = None,
    ) -> None:
        """`min_side`: as for `open_image`. `bad_samples`: what becomes of unreadable images; None: the run fails."""
        self.bad_samples = FailOnBadSample() if bad_samples is None else bad_samples
        self.times = InputTimes()
        self.decodes_on_device = decodes_on_device
        self.reader = reader
        self.min_side = min_side
        self.workers = workers
        self._device = device
        self._is_cpu = device.type == "cpu"
        self._decoded: DecodedCache | None = None
        self._is_inline = False
        self._depth = workers + READ_AHEAD
        self._pool = _start_threads(workers, device) if workers else None

    @property
    def is_decoded(self) -> bool:
        return self._decoded is not None

    def use_decoded(self, decoded: DecodedCache | None) -> None:
        """From now on take images from there and read nothing; None: from the shards again."""
        self._decoded = decoded
        self._is_inline = False
        if decoded is not None and self._is_cpu:
            self._is_inline = int(decoded.images.sizes_B2.prod(axis=1).mean()) <= INLINE_PIXELS

    def batches(self, work: Work, prepare: Prepare) -> Iterator[Batch]:
        """One batch on the device for each array of ids.

        Raise DataError when an image cannot be read or decoded, and is not to be left out: then another of its batch
        stands in for it, with weight 0.
        """
        if self._decoded is None:
            work = self.reader.look_ahead(work)
        if self._is_cpu:
            load = partial(self._load_prepared, prepare)
            yield from self._in_groups(work, load) if self._is_inline else self._ahead(work, load)
            return
        blocks = self._ahead(work, self._load_decoded)
        for block in blocks if self._is_on_device else copy_ahead(blocks, self._device, self.times):
            images_BChw = prepare(block.images, block.ids_B, block.view)
            yield self._replace_skipped(Batch(images_BChw, block.labels_B, block.weights_B, block.ids_B, block.view))

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _ahead(self, work: Work, load: Callable[[int, Ids, InputTimes], T]) -> Iterator[T]:
        """What `load` makes of each, by the threads and in order."""
        waiting: deque[Future[tuple[T, InputTimes]]] = deque()
        coming = iter(work)

        def timed(view: int, ids_B: Ids) -> tuple[T, InputTimes]:
            times = InputTimes()
            return load(view, ids_B, times), times

        def take() -> tuple[T, InputTimes] | None:
            if self._pool is None or self._is_inline:
                ids = next(coming, None)
                return None if ids is None else timed(*ids)
            while len(waiting) < self._depth and (ids := next(coming, None)) is not None:
                waiting.append(self._pool.submit(timed, *ids))
            return waiting.popleft().result() if waiting else None

        try:
            while True:
                start = time.perf_counter()
                taken = take()
                self.times.wait_s += time.perf_counter() - start
                if taken is None:
                    return
                self.times.add(taken[1])
                yield taken[0]
        finally:
            for future in waiting:
                future.cancel()

    def _in_groups(self, work: Work, load: Callable[[int, Ids, InputTimes], Batch]) -> Iterator[Batch]:
        """Batches of one view that follow one another are loaded together."""
        sizes: deque[int] = deque()

        def joined() -> Iterator[tuple[int, Ids]]:
            for view, batches in groupby(work, key=itemgetter(0)):
                for _, first_B in batches:
                    more = islice(batches, max(0, INLINE_IMAGES // len(first_B) - 1))  # noqa: B031 - goes on from there
                    group = [first_B, *(ids_B for _, ids_B in more)]
                    sizes.extend(map(len, group))
                    yield view, np.concatenate(group)

        for whole in self._ahead(joined(), load):
            stop = 0
            while stop < len(whole.ids_B):
                start, stop = stop, stop + sizes.popleft()
                yield whole.part(slice(start, stop))

    def _load_prepared(self, prepare: Prepare, view: int, ids_B: Ids, times: InputTimes) -> Batch:
        images, labels_B = self._open(ids_B, times)
        start, decoded_s = time.perf_counter(), times.decode_s
        images_BChw = prepare(images, ids_B, view)
        times.augment_s += time.perf_counter() - start - (times.decode_s - decoded_s)
        return self._replace_skipped(Batch(images_BChw, labels_B, _weights(ids_B), ids_B, view))

    def _replace_skipped(self, batch: Batch) -> Batch:
        is_damaged_B = self.bad_samples.among(batch.ids_B)
        if not is_damaged_B.any():
            return batch
        rows = torch.from_numpy(np.flatnonzero(is_damaged_B)).to(batch.weights_B.device)
        batch.weights_B[rows] = 0
        for whole in np.flatnonzero(~is_damaged_B & (batch.ids_B >= 0)).tolist()[:1]:
            # Its label too: mixing gives a part of it to the neighbour.
            batch.images_BChw[rows], batch.labels_B[rows] = (
                batch.images_BChw[whole].clone(),
                batch.labels_B[whole].clone(),
            )
        return batch

    def _load_decoded(self, view: int, ids_B: Ids, times: InputTimes) -> DecodedBatch:
        images, labels_B = self._open(ids_B, times)
        if isinstance(images, EncodedBatch):
            is_there = self.decodes_on_device
            images = decode_files(images, self._device) if is_there else images.decode(is_pinned=True)
        block = DecodedBatch(images, labels_B, _weights(ids_B), ids_B, view)
        return block.to(self._device) if self._is_on_device else block

    @property
    def _is_on_device(self) -> bool:
        return self._decoded is not None and self._decoded.images.device.type != "cpu"

    def _open(self, ids_B: Ids, times: InputTimes) -> tuple[EncodedBatch | PackedImages, Tensor]:
        if self._decoded is None:
            return read_files(self.reader, ids_B, self.min_side, times, self.bad_samples)
        start = time.perf_counter()
        images, labels_B = self._decoded.take(ids_B)
        if not self._is_cpu and not self._is_on_device:
            images = images.copy_pinned()
        times.read_s += time.perf_counter() - start
        return images, labels_B


def count_workers(wanted: int | None, world: World) -> int:
    """Threads for one process: as the recipe says, or this node's usable cores shared by its processes."""
    if wanted is not None:
        return wanted
    # macOS does not tell which cores a process may use.
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, num_cores // world.local_size)


def _weights(ids_B: Ids) -> Tensor:
    return torch.from_numpy((ids_B >= 0).astype(np.int64))


def _start_threads(workers: int, device: torch.device) -> ThreadPoolExecutor:
    """Threads in which torch starts no threads of its own."""
    pool = ThreadPoolExecutor(workers, "load")
    together = Barrier(workers)
    num_threads = torch.get_num_threads()

    def enter(_: int) -> None:
        together.wait()  # so that each thread comes here once
        torch.get_num_threads()  # what a thread asks first sets it up, and would undo the next line
        torch.set_num_threads(1)
        if device.type == "cuda" and device.index is not None:
            # A new thread starts on GPU 0; pinning there would hold memory of it for every process of the node.
            torch.cuda.set_device(device)

    list(pool.map(enter, range(workers)))
    # It counts for the calling thread and for all that start later; these are to have what they had.
    torch.set_num_threads(num_threads)
    return pool
