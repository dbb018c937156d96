"""The number of loading threads, and how far ahead they load. What they do is tested in `test_loader`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from launcher.data.cpus import CpuLimits
from launcher.data.encoded import InputTimes
from launcher.data.ids import Ids
from launcher.data.threads import READ_AHEAD, LoadThreads, count_workers, limit_depth
from launcher.distributed.world import World


def test_workers_are_those_wanted_or_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = CpuLimits(frozenset(range(16)), {})
    monkeypatch.setattr("launcher.data.threads.read_cpu_limits", lambda: limits)
    assert count_workers(None, World(size=8, local_size=4)) == 4
    assert count_workers(None, World(size=32, local_size=32)) == 1
    assert count_workers(0, World()) == 0


MIB, GIB = 2**20, 2**30


@pytest.mark.parametrize(
    ("wanted", "batch_bytes", "expected"),
    [
        (130, 3 * 500 * 375 * 256, 15),  # 137 MiB take 256
        (10, 3 * 500 * 375 * 256, 10),
        (130, 256 * MIB, 15),
        (130, 256 * MIB + 1, 7),
        (130, GIB, 3),
        (130, 3 * GIB, READ_AHEAD),
        (130, 0, 130),
        (2, 3 * GIB, 2),
        (130, None, READ_AHEAD),
    ],
)
def test_batches_ahead_of_a_gpu_fit_the_limit_once_their_blocks_are_rounded_up(
    wanted: int, batch_bytes: int | None, expected: int
) -> None:
    assert limit_depth(wanted, batch_bytes) == expected


@pytest.mark.parametrize(
    ("bytes_of", "expected"), [(lambda batch: GIB, [2, 3, 3, 3, 2, 1]), (None, [6, 5, 4, 3, 2, 1])]
)
def test_large_batches_are_loaded_less_far_ahead(bytes_of: Callable[[int], int] | None, expected: list[int]) -> None:
    """Two until the size of one is known; then blocks of 1 GiB leave room for three and the one that is copied."""
    taken = 0

    def work() -> Iterator[tuple[int, Ids]]:
        nonlocal taken
        for number in range(6):
            taken += 1
            yield number, np.array([number])

    threads = LoadThreads(8, torch.device("cpu"))
    loaded = threads.load(work(), lambda view, ids_B, times: view, InputTimes(), bytes_of=bytes_of)
    ahead = [taken - number for number in loaded]
    threads.close()
    assert ahead == expected
