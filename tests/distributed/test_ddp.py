"""Two gloo processes with a BatchNorm network, of which rank 0 is slow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from launcher.distributed import ddp
from launcher.distributed.ddp import has_plain_batchnorm
from launcher.train.bottleneck import InputCost, find_straggler
from tests.distributed.ddp_rank import SLEEP_S, STEPS
from tests.harness.runs import ROOT, environment, ranks_of

PROGRAM = Path(__file__).parent / "ddp_rank.py"
SLOW_RANK = 0
"""The one whose buffers DDP broadcasts: every other rank would wait for them in its forward pass."""


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    """What each rank has printed."""
    started = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(SLOW_RANK)],
            env={**environment(), **variables, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for variables in ranks_of(2)
    ]
    ended = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    return [json.loads(out) for out, _ in ended]


def cost(rank: int, compute_s: float) -> InputCost:
    wait_s = STEPS * SLEEP_S if rank == SLOW_RANK else 0.0
    return InputCost(1.0, wait_s, 0, 0, 0, 0, 0, workers=1, num_cores=1, compute_s=compute_s, steps=STEPS)


def test_a_slow_rank_is_named_though_the_network_has_batchnorm(ranks: list[dict[str, Any]]) -> None:
    costs = [cost(number, each["compute_s"]) for number, each in enumerate(ranks)]
    line = find_straggler(costs, ["node1", "node2"])
    assert line is not None
    assert line.startswith(f"rank {SLOW_RANK} (node1)")


def test_ranks_begin_with_the_weights_and_statistics_of_rank_0(ranks: list[dict[str, Any]]) -> None:
    assert [each["first_mean"] for each in ranks] == [[1.0] * 4] * 2
    assert ranks[0]["weights"] == ranks[1]["weights"]


def test_then_each_has_statistics_of_its_own_until_they_are_shared(ranks: list[dict[str, Any]]) -> None:
    assert ranks[0]["mean"] != ranks[1]["mean"]
    assert ranks[0]["shared_mean"] == ranks[1]["shared_mean"] == ranks[0]["mean"]


def test_the_spurious_warning_of_1x1_convolutions_is_filtered_alone(ranks: list[dict[str, Any]]) -> None:
    assert [each["warnings"] for each in ranks] == [["another"], ["another"]]


@pytest.mark.parametrize(("device", "device_ids"), [("cuda:0", [0]), ("cuda:3", [3]), ("cpu", None)])
def test_ddp_gets_the_index_of_the_gpu_and_not_of_the_rank(
    monkeypatch: pytest.MonkeyPatch, device: str, device_ids: list[int] | None
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "5")
    wrap = Mock()
    monkeypatch.setattr(ddp, "DistributedDataParallel", wrap)
    ddp.wrap_ddp(nn.Linear(1, 1), torch.device(device))
    assert wrap.call_args.kwargs["device_ids"] == device_ids


@pytest.mark.parametrize(
    ("layer", "is_plain"),
    [(nn.BatchNorm2d(2), True), (nn.SyncBatchNorm(2), False), (nn.InstanceNorm2d(2), False)],
)
def test_plain_batchnorm_is_found(layer: nn.Module, is_plain: bool) -> None:
    assert has_plain_batchnorm(nn.Sequential(nn.Conv2d(1, 2, 1), layer)) == is_plain
