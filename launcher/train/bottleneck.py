"""Whether a training waits for its input, which part of the input is the bottleneck, and what to try.

Pure; needs no torch.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BOUND_FRAC = 0.1
"""Fraction of the time spent waiting for data above which a training is input-bound."""

BUSY_FRAC = 0.8
"""Busy fraction of the worker threads above which adding threads helps."""

COPYING_FRAC = 0.9
"""Copy time as a fraction of training time above which copying is the bottleneck. Copies overlap compute, so no wait
shows it."""

CROP_ROOM = 1.4
"""Longest side worth shrinking images to, over the side that the network takes: a random crop needs room."""

STRAGGLER_RATIO = 1.5
"""A rank is a straggler when its own part of a step takes this many times the median: it makes all of them wait."""

MIN_STEPS = 10
"""Steps below which ranks are not compared."""

FEATURES = "reading features"
"""The bottleneck where no thread has read or decoded an image."""


@dataclass(frozen=True, slots=True)
class InputCost:
    """The cost of training on one rank, in seconds of the clock and of its threads.

    `wait_s`: the time without a batch, of the GPU where one computes. `workers`: its threads, 0 where it decodes in
    line; `num_cores`: its share of the node's. `long_side`: mean of the images' longer sides in pixels, 0 where none
    was decoded.
    """

    train_s: float
    wait_s: float
    read_s: float
    decode_s: float
    augment_s: float
    copy_s: float
    long_side: float
    workers: int
    num_cores: int
    compute_s: float = 0.0
    """The network's own part of the steps, without waiting for other ranks; 0 when alone."""
    steps: int = 0

    @property
    def wait_frac(self) -> float:
        return min(self.wait_s / self.train_s, 1.0) if self.train_s else 0.0

    @property
    def step_s(self) -> float:
        """Time of one step, without waiting for other ranks."""
        return (self.compute_s + self.wait_s) / self.steps

    @property
    def threads_s(self) -> float:
        return self.read_s + self.decode_s + self.augment_s

    @property
    def busy_frac(self) -> float:
        """Fraction of the time that the threads were at work; in line nothing is ever idle."""
        if not self.workers or not self.train_s:
            return 1.0
        return min(self.threads_s / (self.train_s * self.workers), 1.0)

    @property
    def slowest(self) -> str:
        """The part of the input that took the threads longest."""
        seconds = {"read": self.read_s, "decode": self.decode_s, "augment": self.augment_s}
        return max(seconds, key=lambda part: seconds[part]) if self.threads_s else FEATURES


@dataclass(frozen=True, slots=True)
class Tunables:
    """The settings that can be tried. `is_cpu`: the network runs on the cores that the threads need.

    `final_side`: the longer side that the network takes. `cache_keys`, `feature_keys`: what to set so
    that decoded images, or features of the frozen part, are kept; None: they are, or cannot be.
    """

    is_cpu: bool
    final_side: int
    cache_keys: str | None
    feature_keys: str | None


@dataclass(frozen=True, slots=True)
class InputReport:
    """`sentence`, and its numbers: those of the rank that waited most, as the others then wait for it."""

    sentence: str
    bottleneck: str | None
    """The part of the input that training waits for; None: it does not wait."""
    rank: int
    wait_frac: float
    threads_busy_frac: float
    straggler: str | None = None
    """Which rank is markedly slower than the others; None: none is."""


def diagnose(costs: Sequence[InputCost], tunables: Tunables, hosts: Sequence[str] = ("here",)) -> InputReport | None:
    """`costs`, `hosts`: of every rank. None when nothing was trained."""
    rank = max(range(len(costs)), key=lambda rank: costs[rank].wait_frac)
    cost = costs[rank]
    if not cost.train_s:
        return None
    bottleneck, frac = (cost.slowest if cost.wait_frac >= BOUND_FRAC else None), cost.wait_frac
    if cost.copy_s >= COPYING_FRAC * cost.train_s:
        bottleneck, frac = "copy", min(cost.copy_s / cost.train_s, 1.0)
    if bottleneck is None:
        sentence = f"not input-bound: {frac:.0%} of the time waiting for data"
    else:
        where = f" (rank {rank})" if len(costs) > 1 else ""
        advice = " or ".join(_find_all(cost, bottleneck, tunables))
        sentence = f"input-bound {frac:.0%}{where}: {bottleneck}; try {advice}"
    if tunables.is_cpu and cost.threads_s:
        share = min(cost.threads_s / (cost.train_s * cost.num_cores), 1.0)
        cores = "the core" if cost.num_cores == 1 else f"the {cost.num_cores} cores"
        sentence += f"; reading and augmenting took {share:.0%} of {cores} that the network uses too"
    fractions = round(cost.wait_frac, 4), round(cost.busy_frac, 4)
    return InputReport(sentence, bottleneck, rank, *fractions, find_straggler(costs, hosts))


def find_straggler(costs: Sequence[InputCost], hosts: Sequence[str]) -> str | None:
    """The slowest rank, where it takes `STRAGGLER_RATIO` times as long as the median of the others."""
    if len(costs) < 2 or min(cost.steps for cost in costs) < MIN_STEPS:
        return None
    rank = max(range(len(costs)), key=lambda rank: costs[rank].step_s)
    slow, others_s = costs[rank], statistics.median(cost.step_s for i, cost in enumerate(costs) if i != rank)
    if not others_s or slow.step_s < STRAGGLER_RATIO * others_s:
        return None
    return (
        f"rank {rank} ({hosts[rank]}) takes {slow.step_s / others_s:.1f} times as long as the others: "
        f"{1000 * slow.step_s:.1f} ms a step, {1000 * slow.wait_s / slow.steps:.1f} of them waiting for data, "
        f"against {1000 * others_s:.1f} ms"
    )


def find_remedies(bottleneck: str, long_side: float, tunables: Tunables) -> list[str]:
    """Settings that make the bottleneck cheaper, the surest first; never empty."""
    if bottleneck == FEATURES:
        return ["data/features on a faster disk"]
    remedies = []
    smaller = 32 * math.ceil(tunables.final_side * CROP_ROOM / 32)
    if long_side > 1.25 * smaller:
        remedies.append(f"shards packed with --max-side {smaller}")
    if bottleneck == "copy":
        remedies.append("data.cache=device")
    elif bottleneck in ("read", "decode") and tunables.cache_keys is not None:
        remedies.append(tunables.cache_keys)
    if tunables.feature_keys is not None:
        remedies.append(tunables.feature_keys)
    if bottleneck == "augment":
        remedies.append("fewer operations in augment.train")
    return remedies or ["smaller images"]


def _find_all(cost: InputCost, bottleneck: str, tunables: Tunables) -> list[str]:
    """More threads where cores are free for them, then at most two of the others."""
    more = []
    if bottleneck not in (FEATURES, "copy") and cost.busy_frac >= BUSY_FRAC and cost.workers < cost.num_cores:
        other_frac = max(1 - cost.wait_frac, 1 / cost.num_cores)
        wanted = math.ceil(round(max(cost.workers, 1) / other_frac, 6))
        more.append(f"data.workers={min(wanted, cost.num_cores)}")
    return more + find_remedies(bottleneck, cost.long_side, tunables)[:2]
