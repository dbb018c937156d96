"""What a step leaves to be written down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from launcher.augment.parameter_hash import Hashes
from launcher.data.order import Ids
from launcher.distributed.strategy import Strategy

_NAMED = 8
"""Samples that a message names."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step leaves to be written down, of this rank. `loss`: the mean over its images, not waited for."""

    step: int
    loss: Tensor
    ids: list[Ids]
    drawn: list[Hashes]
    """A hash of what was done to each image."""
    is_taken: bool = True
    """False where it was left out, on every process."""

    @property
    def samples(self) -> str:
        """`samples 3, 17, 4 and 29 more`."""
        ids = np.concatenate(self.ids).tolist()
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return f"samples {', '.join(map(str, ids[:_NAMED]))}{more}"


def describe_ranks(strategy: Strategy, result: StepResult, is_mine: bool) -> str:
    """`on rank 3 (samples 3, 17)`, of the first rank that says so; called by every process."""
    told = strategy.gather(result.samples if is_mine else None)
    return next((f"on rank {rank} ({samples})" for rank, samples in enumerate(told) if samples is not None), "")
