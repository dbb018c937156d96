"""The real program with a fault on one rank: python faulty.py FAULT RANK [what launcher takes]."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

import launcher.__main__
from launcher.data.reader import Sample, ShardReader
from launcher.train import loop
from launcher.train.step import train_step

STEP = 40
READS = 1500


def hang_in_data() -> None:
    read, count = ShardReader._read, 0

    def slow(self: ShardReader, sample_id: int) -> Sample:
        nonlocal count
        count += 1
        if count > READS:
            time.sleep(1000)
        return read(self, sample_id)

    ShardReader._read = slow  # type: ignore[method-assign]


def at_step(work: Callable[[], object]) -> Callable[[], None]:
    def faulty(job: Any, stage: Any, batches: Any, step: int, *others: Any) -> Any:
        if step == STEP:
            work()
        return train_step(job, stage, batches, step, *others)

    return lambda: setattr(loop, "train_step", faulty)


def fail() -> None:
    raise ArithmeticError("broken on purpose")


def fail_later() -> None:
    time.sleep(0.5)
    raise LookupError("broken as well")


def run_out_of_memory() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


FAULTS = {
    "none": lambda: None,
    "data": hang_in_data,
    "raise": at_step(fail),
    "raise-later": at_step(fail_later),
    "memory": at_step(run_out_of_memory),
}

if __name__ == "__main__":
    for fault, rank in zip(sys.argv[1].split(","), sys.argv[2].split(","), strict=True):
        if rank == os.environ["RANK"]:
            FAULTS[fault]()
    sys.argv[1:3] = []
    launcher.__main__.main()
