from __future__ import annotations

import time

import pytest
import torch

from launcher.distributed.step_timer import NoPace, Pace


def test_only_what_is_between_counts() -> None:
    pace = Pace(torch.device("cpu"))
    for _ in range(2):
        time.sleep(0.05)
        pace.begin()
        time.sleep(0.02)
        pace.end()
    assert 0.04 <= pace.work_s < 0.08


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_s_own_time_counts_and_nothing_waits_for_it() -> None:
    device = torch.device("cuda")
    pace = Pace(device)
    pace.begin()
    torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call]
    began_s = time.perf_counter()
    pace.end()
    assert time.perf_counter() - began_s < 0.05
    torch.cuda.synchronize()
    pace.begin()
    pace.end()
    assert pace.work_s > 0.05


def test_alone_nothing_is_measured() -> None:
    pace = NoPace()
    pace.begin()
    pace.end()
    assert pace.work_s == 0.0
