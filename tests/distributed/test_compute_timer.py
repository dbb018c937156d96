from __future__ import annotations

import time

import pytest
import torch

from launcher.distributed.compute_timer import CpuComputeTimer, CudaComputeTimer, NullComputeTimer, build_compute_timer


def test_only_the_time_between_begin_and_end_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    times_s = iter((5.0, 7.0, 20.0, 23.0))
    monkeypatch.setattr("launcher.distributed.compute_timer.time.perf_counter", lambda: next(times_s))
    timer = CpuComputeTimer()
    for _ in range(2):
        timer.begin()
        timer.end()
    assert timer.compute_s == 2.0 + 3.0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_time_counts_and_nothing_waits_for_it() -> None:
    timer = CudaComputeTimer()
    timer.begin()
    torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call]
    began_s = time.perf_counter()
    timer.end()
    assert time.perf_counter() - began_s < 0.05
    torch.cuda.synchronize()
    timer.begin()
    timer.end()
    assert timer.compute_s > 0.05


def test_a_single_process_measures_nothing() -> None:
    timer = build_compute_timer(1, torch.device("cpu"))
    timer.begin()
    timer.end()
    assert timer.compute_s == 0.0
    assert isinstance(timer, NullComputeTimer)
    assert isinstance(build_compute_timer(2, torch.device("cpu")), CpuComputeTimer)
    assert isinstance(build_compute_timer(2, torch.device("cuda")), CudaComputeTimer)
