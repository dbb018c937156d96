"""Ids -> batches on the device, read and decoded by threads ahead of the training.

Threads, not processes: reading and decoding leave Python's lock, nothing is copied between processes, nothing is
forked beside running threads, and start and end cost nothing.

B batch, H height, W width of the largest image of the batch.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from launcher.data.decode import decode_image
from launcher.data.order import Ids
from launcher.data.reader import ShardReader
from launcher.world import World

READ_AHEAD = 2
"""Batches ready beyond those that the threads are working on."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Images as decoded, before augmentation.

    `canvas_BCHW`: uint8, each image in the top left corner, black around it; `sizes_B2`: its height and width;
    `labels_B`; `weights_B`: 1 counts, 0 is padding; `ids_B`: sample ids. Sizes and ids stay on the CPU, where
    augmentation parameters are drawn.
    """

    canvas_BCHW: Tensor
    sizes_B2: Ids
    labels_B: Tensor
    weights_B: Tensor
    ids_B: Ids


class Loader:
    """Batches of one split, in the order asked for. `wait_s`: seconds that the training waited for them so far."""

    def __init__(self, reader: ShardReader, workers: int, device: torch.device) -> None:
        self._reader = reader
        self._device = device
        self._depth = workers + READ_AHEAD
        self._pool = ThreadPoolExecutor(workers, "load", _enter, (device,)) if workers else None
        self.wait_s = 0.0

    def batches(self, batches_of_ids: Iterable[Ids]) -> Iterator[Batch]:
        """One batch on the device for each array of ids; id -1 is padding of weight 0.

        Raise DataError when an image cannot be read or decoded.
        """
        waiting: deque[Future[Batch]] = deque()
        coming = iter(batches_of_ids)
        try:
            while True:
                start = time.perf_counter()
                batch = self._next(coming, waiting)
                self.wait_s += time.perf_counter() - start
                if batch is None:
                    return
                yield _to_device(batch, self._device)
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def _next(self, coming: Iterator[Ids], waiting: deque[Future[Batch]]) -> Batch | None:
        if self._pool is None:
            ids = next(coming, None)
            return None if ids is None else self._load(ids)
        while len(waiting) < self._depth and (ids := next(coming, None)) is not None:
            waiting.append(self._pool.submit(self._load, ids))
        return waiting.popleft().result() if waiting else None

    def _load(self, ids_B: Ids) -> Batch:
        samples = [self._reader.read(max(int(i), 0)) for i in ids_B]
        images = [decode_image(sample.content, sample.place) for sample in samples]
        sizes_B2 = np.array([image.shape[:2] for image in images], dtype=np.int64)
        canvas_BHWC = np.zeros((len(images), *sizes_B2.max(axis=0), 3), dtype=np.uint8)
        for canvas, image in zip(canvas_BHWC, images, strict=True):
            canvas[: image.shape[0], : image.shape[1]] = image
        batch = Batch(
            canvas_BCHW=torch.from_numpy(canvas_BHWC).permute(0, 3, 1, 2),
            sizes_B2=sizes_B2,
            labels_B=torch.tensor([sample.label for sample in samples]),
            weights_B=torch.from_numpy((ids_B >= 0).astype(np.int64)),
            ids_B=ids_B,
        )
        return _pin(batch) if self._device.type == "cuda" else batch


def count_workers(wanted: int | None, world: World) -> int:
    """Threads for one process: as the recipe says, or this node's usable cores shared by its processes."""
    if wanted is not None:
        return wanted
    # macOS does not tell which cores a process may use.
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, num_cores // world.local_size)


def _enter(device: torch.device) -> None:
    """A new thread starts on GPU 0; pinning there would hold memory of it for every process of the node."""
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)


def _pin(batch: Batch) -> Batch:
    return replace(
        batch,
        canvas_BCHW=batch.canvas_BCHW.pin_memory(),
        labels_B=batch.labels_B.pin_memory(),
        weights_B=batch.weights_B.pin_memory(),
    )


def _to_device(batch: Batch, device: torch.device) -> Batch:
    return replace(
        batch,
        canvas_BCHW=batch.canvas_BCHW.to(device, non_blocking=True),
        labels_B=batch.labels_B.to(device, non_blocking=True),
        weights_B=batch.weights_B.to(device, non_blocking=True),
    )
