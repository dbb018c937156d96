"""What a step leaves to be logged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from launcher.augment.parameter_hash import ParamHashes
from launcher.data.ids import Ids
from launcher.distributed.comm import Comm

_NAMED = 8
"""Samples that a message names."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """A step of this rank. `loss`: the mean over its images, not waited for."""

    step: int
    loss: Tensor
    ids: list[Ids]
    """Of each micro batch, as the next."""
    param_hashes: list[ParamHashes]
    """A hash of what was done to each image."""
    is_skipped: bool = False
    """True where the optimizer did not step, on every rank."""

    @property
    def samples(self) -> str:
        """`samples 3, 17, 4 and 29 more`."""
        ids = np.concatenate(self.ids).tolist()
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return f"samples {', '.join(map(str, ids[:_NAMED]))}{more}"


def describe_ranks(comm: Comm, result: StepResult, is_mine: bool) -> str:
    """`on rank 3 (samples 3, 17)`: the first rank whose `is_mine` is true. Called by every rank."""
    ranks = comm.all_gather_object(result.samples if is_mine else None)
    return next((f"on rank {rank} ({samples})" for rank, samples in enumerate(ranks) if samples is not None), "")
