"""Ranks as threads of one process, over torch's process group for threads: real collectives without processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed import multi_threaded_pg as threaded

from launcher.distributed.comm import Comm, ShouldStop, never
from launcher.distributed.world import World

T = TypeVar("T")

C10D: Any = torch._C._distributed_c10d

TIMEOUT_S = 60


@contextmanager
def process_groups_of_threads() -> Iterator[None]:
    """Each thread has a default process group of its own, which stands for gloo's, too."""
    C10D._set_thread_isolation_mode(True)
    threaded._install_threaded_pg()  # type: ignore[no-untyped-call]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dist, "new_group", lambda **_: dist.group.WORLD)
        try:
            yield
        finally:
            threaded._uninstall_threaded_pg()  # type: ignore[no-untyped-call]
            threaded.ProcessLocalGroup.reset()  # type: ignore[no-untyped-call]
            C10D._set_thread_isolation_mode(False)


def run_ranks(work: Callable[[Comm], T], *stop_requested: ShouldStop, size: int = 3) -> list[T | BaseException]:
    """What `work` returns, or raises, on each rank. `stop_requested`: of rank 0, 1, ...; never where none is given."""
    outcomes: list[Any] = [None] * size
    with process_groups_of_threads():
        store = dist.HashStore()  # type: ignore[attr-defined]

        def run(rank: int) -> None:
            dist.init_process_group("threaded", rank=rank, world_size=size, store=store)
            stop = stop_requested[rank] if rank < len(stop_requested) else never
            try:
                outcomes[rank] = work(Comm(World(rank, size, rank, size), stop))
            except BaseException as error:
                outcomes[rank] = error

        threads = [threading.Thread(target=run, args=(rank,), name=f"rank {rank}", daemon=True) for rank in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(TIMEOUT_S)
        assert not any(thread.is_alive() for thread in threads), "a rank waits for the others"
    return outcomes
