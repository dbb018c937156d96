"""The cores of this machine, shared out to the trials that run at a time.

Each trial is a world of its own, whose loaders take every core that its processes may use: they may use a share.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager


def share_of_cores(cores: Collection[int], slot: int, num_slots: int) -> frozenset[int]:
    """The cores of the trial in `slot`, of `num_slots`: neighbors, so that they are near the same memory.

    Shares differ by one core at most. Where there are fewer cores than slots, each slot has one, in turn.
    """
    ordered = sorted(cores)
    num_shares = min(num_slots, len(ordered))
    first, end = (i * len(ordered) // num_shares for i in (slot % num_shares, slot % num_shares + 1))
    return frozenset(ordered[first:end])


def usable_cores() -> frozenset[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(0))
    return frozenset(range(os.cpu_count() or 1))  # macOS does not tell


@contextmanager
def starting_on(cores: Collection[int]) -> Iterator[None]:
    """Context in which this thread starts processes: they may use these cores only, and so may their children.

    No effect on macOS, where no process can be bound to cores.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
