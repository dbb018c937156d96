"""Threads that load ahead of the training, in order.

Threads, not processes: reading, decoding and augmenting release Python's lock, nothing is copied between processes,
nothing is forked beside running threads, and starting and stopping cost nothing.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Barrier
from typing import TypeVar

import torch

from launcher.data.cpus import read_cpu_limits, share_cpus
from launcher.data.encoded import InputTimes
from launcher.data.ids import Ids, Work
from launcher.distributed.world import World

T = TypeVar("T")

READ_AHEAD = 2
"""Batches that are ready beyond those that the threads are working on."""

PREFETCH_BYTES = 4 * 2**30
"""Limit of the memory of batches on their way to a GPU: 16 batches of 256 photographs of 500 x 375 pixels."""

Load = Callable[[int, Ids, InputTimes], T]
"""(view, ids_B, times to add to) -> a batch."""


class LoadThreads:
    """`workers`: number of threads; 0: the caller's own thread loads."""

    def __init__(self, workers: int, device: torch.device) -> None:
        self._depth = workers + READ_AHEAD
        self._batch_bytes: int | None = None
        """The largest batch so far, of those that are measured."""
        self._pool = _start_threads(workers, device) if workers else None

    def load(
        self,
        work: Work,
        load: Load[T],
        times: InputTimes,
        is_inline: bool = False,
        bytes_of: Callable[[T], int] | None = None,
    ) -> Iterator[T]:
        """`load` of each batch of `work`, in order, by the threads; `is_inline`: by the caller's own thread.

        Adds to `times` what loading took, and how long the caller waited. `bytes_of`: memory of a batch, which then
        limits how many are loaded ahead.
        """
        waiting: deque[Future[tuple[T, InputTimes]]] = deque()
        coming = iter(work)

        def timed(view: int, ids_B: Ids) -> tuple[T, InputTimes]:
            own = InputTimes()
            return load(view, ids_B, own), own

        def take() -> tuple[T, InputTimes] | None:
            if self._pool is None or is_inline:
                ids = next(coming, None)
                return None if ids is None else timed(*ids)
            depth = self._depth if bytes_of is None else limit_depth(self._depth, self._batch_bytes)
            while len(waiting) < depth and (ids := next(coming, None)) is not None:
                waiting.append(self._pool.submit(timed, *ids))
            return waiting.popleft().result() if waiting else None

        try:
            while True:
                start = time.perf_counter()
                taken = take()
                times.wait_s += time.perf_counter() - start
                if taken is None:
                    return
                times.add(taken[1])
                if bytes_of is not None:
                    self._batch_bytes = max(self._batch_bytes or 0, bytes_of(taken[0]))
                yield taken[0]
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def limit_depth(wanted: int, batch_bytes: int | None) -> int:
    """Batches to load ahead: `wanted`, or as many as PREFETCH_BYTES hold, but at least READ_AHEAD.

    `batch_bytes`: the largest batch; None: not known yet.
    """
    if batch_bytes is None:
        return min(wanted, READ_AHEAD)
    block_bytes = 1 << max(batch_bytes - 1, 0).bit_length()  # pinned memory comes in powers of two
    return min(wanted, max(READ_AHEAD, PREFETCH_BYTES // block_bytes - 1))  # one more is being copied


def count_workers(wanted: int | None, world: World) -> int:
    """Threads of one rank: `wanted`, or its share where all ranks of the node use this process's processors.

    `count_cpus` asks the ranks which they use.
    """
    if wanted is not None:
        return wanted
    own = read_cpu_limits()
    return share_cpus(own, [own] * world.local_size)


def _start_threads(workers: int, device: torch.device) -> ThreadPoolExecutor:
    """Threads in which torch starts no threads of its own."""
    pool = ThreadPoolExecutor(workers, "load")
    together = Barrier(workers)
    num_threads = torch.get_num_threads()

    def enter(_: int) -> None:
        together.wait()  # so that each thread comes here once
        torch.get_num_threads()  # a thread's first call sets it up, and would undo the next line
        torch.set_num_threads(1)
        if device.type == "cuda" and device.index is not None:
            # A new thread starts on GPU 0; pinning there would take memory of it for every rank of the node.
            torch.cuda.set_device(device)

    list(pool.map(enter, range(workers)))
    # The number also holds for the calling thread and for all that start later: restore it for them.
    torch.set_num_threads(num_threads)
    return pool
