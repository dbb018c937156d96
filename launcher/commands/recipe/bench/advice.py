"""What speeds measured stage by stage say about a recipe's settings. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.recipe.schema import Data
from launcher.text import show_bytes
from launcher.train.bottleneck import Tunables, find_remedies

GROWTH = 1.1
"""More threads must do so much more to be worth having; an input this much faster than the network keeps up."""


@dataclass(frozen=True)
class Speeds:
    """Images per second. `stages`: read, decode and, where threads do it, augment, each by one thread.

    `by_workers`: the whole input, by number of threads. `both`: input and network at once, which is training.
    """

    stages: dict[str, float]
    by_workers: dict[int, float]
    network: float
    both: float

    @property
    def best_input(self) -> float:
        return max(self.by_workers.values())

    @property
    def slowest(self) -> str:
        """Stage of the input that takes longest."""
        return min(self.stages, key=lambda stage: self.stages[stage])


def choose_workers(by_workers: dict[int, float], network: float) -> int:
    """The fewest threads that keep ahead of the network, or those after which more do not do much more."""
    wanted = min(GROWTH * network, max(by_workers.values()) / GROWTH)
    return min(workers for workers, speed in by_workers.items() if speed >= wanted)


def describe_limit(speeds: Speeds, long_side: float, setting: Tunables) -> str:
    """What training waits for, and what to try. `long_side`: of an image on average, in pixels."""
    if speeds.both * GROWTH >= speeds.network:
        return "the network limits"
    remedies = " or ".join(find_remedies(speeds.slowest, long_side, setting)[:2])
    if speeds.both * GROWTH >= speeds.best_input:
        return f"the input limits: {speeds.slowest}; try {remedies}"
    return f"input and network slow each other down; what takes the input longest is {speeds.slowest}; try {remedies}"


def cache_keys(data: Data, num_bytes: int, free_bytes: int) -> str | None:
    """What keeps so many bytes of decoded images in memory; None where there is no room for them."""
    if num_bytes > free_bytes:
        return None
    if data.cache == "none":
        return "data.cache=decoded"
    if num_bytes > data.cache_gib * 2**30:
        return f"data.cache_gib={math.ceil(num_bytes / 2**30)}"
    return f"data.cache={data.cache}"


def describe_cache(speeds: Speeds, keys: str | None, num_bytes: int, free_bytes: int) -> str:
    """Whether training would be a tenth faster, or more, with decoded images in memory: an estimate."""
    size = f"{show_bytes(num_bytes)} decoded, memory has room for {show_bytes(free_bytes)}"
    if keys is None:
        return f"data.cache has no room for the training images: {size}"
    costs_s = {stage: 1 / speed for stage, speed in speeds.stages.items()}
    saved_s = (costs_s["read"] + costs_s["decode"]) / sum(costs_s.values()) / speeds.best_input
    # Not faster than the network alone; nor slower than now, should the network alone have been measured so.
    after_s = min(max(1 / speeds.both - saved_s, 1 / speeds.network), 1 / speeds.both)
    gain = 1 / speeds.both / after_s
    return f"{keys} {'helps' if gain >= GROWTH else 'does not help much'}: training x {gain:.2f} by estimate; {size}"
