"""How a step's samples are named to the user."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from launcher.distributed.comm import Comm
from launcher.distributed.world import World
from launcher.train.step_result import StepResult, describe_ranks


def result_of(*ids: int) -> StepResult:
    return StepResult(1, torch.tensor(0.0), [np.array(ids[:2]), np.array(ids[2:], dtype=np.int64)], [])


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((3, 17), "samples 3, 17"),
        (tuple(range(8)), "samples 0, 1, 2, 3, 4, 5, 6, 7"),
        (tuple(range(10)), "samples 0, 1, 2, 3, 4, 5, 6, 7 and 2 more"),
    ],
)
def test_samples_are_named_and_many_are_cut_short(ids: tuple[int, ...], expected: str) -> None:
    assert result_of(*ids).samples == expected


def test_only_the_rank_that_it_is_about_is_described() -> None:
    comm = Comm(World())
    assert describe_ranks(comm, result_of(3, 17), is_mine=True) == "on rank 0 (samples 3, 17)"
    assert describe_ranks(comm, result_of(3, 17), is_mine=False) == ""
