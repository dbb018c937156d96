"""From the measured speed of each stage to the settings to try. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass

from launcher.recipe.schema import Data
from launcher.text import show_bytes
from launcher.train.bottleneck import Tunables, find_remedies

GROWTH = 1.1
"""Speed-up that counts: more threads must bring it, and an input this much faster than the network keeps up."""


@dataclass(frozen=True)
class Speeds:
    """Images per second."""

    stages: dict[str, float]
    """read, decode and, where threads do it, augment, each by one thread."""
    by_workers: dict[int, float]
    """The whole input, by number of threads."""
    network: float
    both: float
    """Input and network at once, which is training."""

    @property
    def best_input(self) -> float:
        return max(self.by_workers.values())

    @property
    def slowest(self) -> str:
        """The slowest stage of the input."""
        return min(self.stages, key=lambda stage: self.stages[stage])


def choose_workers(by_workers: dict[int, float], network: float) -> int:
    """The fewest threads that keep ahead of the network, or beyond which more threads bring little."""
    wanted = min(GROWTH * network, max(by_workers.values()) / GROWTH)
    return min(workers for workers, speed in by_workers.items() if speed >= wanted)


def describe_bottleneck(speeds: Speeds, long_side: float, tunables: Tunables) -> str:
    """The bottleneck of training, and what to try. `long_side`: mean of the images, in pixels."""
    if speeds.both * GROWTH >= speeds.network:
        return "bottleneck: the network"
    remedies = " or ".join(find_remedies(speeds.slowest, long_side, tunables)[:2])
    if speeds.both * GROWTH >= speeds.best_input:
        return f"bottleneck: the input ({speeds.slowest}); try {remedies}"
    return f"input and network slow each other down; slowest stage of the input: {speeds.slowest}; try {remedies}"


def cache_keys(data: Data, num_bytes: int, free_bytes: int) -> str | None:
    """The keys that keep `num_bytes` of decoded images in memory; None where they do not fit."""
    if num_bytes > free_bytes:
        return None
    if data.cache == "none":
        return "data.cache=decoded"
    if num_bytes > data.cache_gib * 2**30:
        return f"data.cache_gib={math.ceil(num_bytes / 2**30)}"
    return f"data.cache={data.cache}"


def describe_cache(speeds: Speeds, keys: str | None, num_bytes: int, free_bytes: int) -> str:
    """Whether decoded images in memory would make training a tenth faster, or more: an estimate."""
    size = f"decoded images take {show_bytes(num_bytes)}, memory has room for {show_bytes(free_bytes)}"
    if keys is None:
        return f"data.cache does not help: {size}"
    costs_s = {stage: 1 / speed for stage, speed in speeds.stages.items()}
    saved_s = (costs_s["read"] + costs_s["decode"]) / sum(costs_s.values()) / speeds.best_input
    # No faster than the network alone; no slower than now, should the network alone have been measured slower.
    after_s = min(max(1 / speeds.both - saved_s, 1 / speeds.network), 1 / speeds.both)
    gain = 1 / speeds.both / after_s
    return f"{keys} {'helps' if gain >= GROWTH else 'does not help much'}: training x {gain:.2f} (estimate); {size}"
