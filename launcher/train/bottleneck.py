"""Whether a training waits for its input, which stage holds it up, and what to try. Pure; needs no torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

BOUND_FRAC = 0.1
"""Of the time waiting for data, from which on a training is called input-bound."""

BUSY_FRAC = 0.8
"""Of their time at work, from which on more threads would do more."""

COPYING_FRAC = 0.9
"""Of the time copying to the GPU, from which on that is what holds up: it has no wait of its own to be seen by."""

CROP_ROOM = 1.4
"""Longest side of pictures that are worth shrinking to, over what the network takes: a random crop needs room."""

SLOWER = 1.5
"""Times the others' own part of a step, from which on a process is named: it makes all of them wait."""

MIN_STEPS = 10
"""That are compared at least."""

FEATURES = "reading features"
"""What the wait is for when no thread has read or decoded a picture."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one process spent on training, in seconds of the clock and of its threads.

    `workers`: its threads, 0 where it decodes in line; `num_cores`: its share of the node's. `long_side`: mean of the
    images' longer sides in pixels, 0 where none was decoded.
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
    work_s: float = 0.0
    """Of the network's own part of the steps, without waiting for other processes; 0 when alone."""
    steps: int = 0

    @property
    def wait_frac(self) -> float:
        return min(self.wait_s / self.train_s, 1.0) if self.train_s else 0.0

    @property
    def step_s(self) -> float:
        """Of one step, without waiting for other processes."""
        return (self.work_s + self.wait_s) / self.steps

    @property
    def threads_s(self) -> float:
        return self.read_s + self.decode_s + self.augment_s

    @property
    def busy_frac(self) -> float:
        """Of the time that the threads were at work; in line nothing is ever idle."""
        if not self.workers or not self.train_s:
            return 1.0
        return min(self.threads_s / (self.train_s * self.workers), 1.0)

    @property
    def stage(self) -> str:
        """The stage that took the threads longest."""
        seconds = {"read": self.read_s, "decode": self.decode_s, "augment": self.augment_s}
        return max(seconds, key=lambda stage: seconds[stage]) if self.threads_s else FEATURES


@dataclass(frozen=True, slots=True)
class Setting:
    """What can be tried. `is_cpu`: the network runs on the cores that the threads need.

    `final_side`: the longer side that the network takes; None: not known. `cache_keys`, `feature_keys`: what to set so
    that decoded images, or features of the frozen part, are kept; None: they are, or cannot be.
    """

    is_cpu: bool
    final_side: int | None
    cache_keys: str | None
    feature_keys: str | None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`sentence`, and its figures: those of the process that waited most, as the others then wait for it."""

    sentence: str
    stage: str | None
    """What holds up; None: nothing does."""
    rank: int
    wait_frac: float
    threads_busy_frac: float
    straggler: str | None = None
    """Which process is markedly slower than the others; None: none is."""


def judge(costs: Sequence[Cost], setting: Setting, hosts: Sequence[str] = ("here",)) -> Verdict | None:
    """`costs`, `hosts`: of every rank. None when nothing was trained."""
    rank = max(range(len(costs)), key=lambda rank: costs[rank].wait_frac)
    cost = costs[rank]
    if not cost.train_s:
        return None
    stage, frac = (cost.stage if cost.wait_frac >= BOUND_FRAC else None), cost.wait_frac
    if cost.copy_s >= COPYING_FRAC * cost.train_s:
        stage, frac = "copy", min(cost.copy_s / cost.train_s, 1.0)
    if stage is None:
        sentence = f"not input-bound: {_percent(frac)} of the time waiting for data"
    else:
        whose = f" (rank {rank})" if len(costs) > 1 else ""
        sentence = f"input-bound {_percent(frac)}{whose}: {stage}; try {' or '.join(_find_all(cost, stage, setting))}"
    if setting.is_cpu and cost.threads_s:
        share = _percent(min(cost.threads_s / (cost.train_s * cost.num_cores), 1.0))
        cores = "the core" if cost.num_cores == 1 else f"the {cost.num_cores} cores"
        sentence += f"; reading and augmenting took {share} of {cores} that the network uses too"
    figures = round(cost.wait_frac, 4), round(cost.busy_frac, 4)
    return Verdict(sentence, stage, rank, *figures, find_straggler(costs, hosts))


def find_straggler(costs: Sequence[Cost], hosts: Sequence[str]) -> str | None:
    """The slowest process, where it is `SLOWER` times as slow as the median of the others."""
    if len(costs) < 2 or min(cost.steps for cost in costs) < MIN_STEPS:
        return None
    rank = max(range(len(costs)), key=lambda rank: costs[rank].step_s)
    slow, others_s = costs[rank], statistics.median(cost.step_s for i, cost in enumerate(costs) if i != rank)
    if not others_s or slow.step_s < SLOWER * others_s:
        return None
    return (
        f"rank {rank} ({hosts[rank]}) is {slow.step_s / others_s:.1f} times as slow as the others: "
        f"{1000 * slow.step_s:.1f} ms a step, {1000 * slow.wait_s / slow.steps:.1f} of them waiting for data, "
        f"against {1000 * others_s:.1f} ms"
    )


def find_remedies(stage: str, long_side: float, setting: Setting) -> list[str]:
    """What makes a stage cheaper, the surest first; never empty."""
    if stage == FEATURES:
        return ["data/features on a faster disk"]
    remedies = []
    smaller = None if setting.final_side is None else 32 * math.ceil(setting.final_side * CROP_ROOM / 32)
    if smaller is not None and long_side > 1.25 * smaller:
        remedies.append(f"shards packed with --max-side {smaller}")
    if stage == "copy":
        remedies.append("data.cache=device")
    elif stage in ("read", "decode") and setting.cache_keys is not None:
        remedies.append(setting.cache_keys)
    if setting.feature_keys is not None:
        remedies.append(setting.feature_keys)
    if stage == "augment":
        remedies.append("fewer operations in augment.train")
    return remedies or ["smaller images"]


def _find_all(cost: Cost, stage: str, setting: Setting) -> list[str]:
    """More threads where cores are free for them, then at most two of the others."""
    more = []
    if stage not in (FEATURES, "copy") and cost.busy_frac >= BUSY_FRAC and cost.workers < cost.num_cores:
        other_frac = max(1 - cost.wait_frac, 1 / cost.num_cores)
        wanted = math.ceil(round(max(cost.workers, 1) / other_frac, 6))
        more.append(f"data.workers={min(wanted, cost.num_cores)}")
    return more + find_remedies(stage, cost.long_side, setting)[:2]


def _percent(frac: float) -> str:
    return f"{100 * frac:.0f} %"
