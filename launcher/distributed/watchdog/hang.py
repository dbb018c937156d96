"""Heartbeats of all ranks -> the line that names the rank which holds the others up. Pure; needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.distributed.watchdog.beacon import Position

ALLOWANCE_S = {"prepare": 3600.0, "save": 3600.0, "finish": 3600.0}
"""Longest time in one position for phases that may exceed `strategy.hang_timeout_s`: compiling and hashing, a slow
disk, the last upload to W&B. Reading images and computing features set the beacon all the time and need none."""

SILENT_FRAC = 0.5
"""Fraction of the timeout without a heartbeat (five intervals or more) after which a rank counts as silent."""

DEADLOCK_FRAC = 1.2
"""Fraction of the timeout that all ranks must have waited: a silent one among them is found earlier."""

MAX_NAMED = 3
"""Ranks that the line names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The newest report of a rank. `idle_s`: seconds without progress when it was sent. `received_s`: when it came."""

    position: Position
    reading: str | None
    idle_s: float
    received_s: float

    def stuck_s(self, now_s: float) -> float:
        """Seconds without progress; a silent rank is taken to make none."""
        return self.idle_s + now_s - self.received_s

    def silent_s(self, now_s: float) -> float:
        return now_s - self.received_s


Heartbeats = Mapping[int, Heartbeat]
"""Newest heartbeat of each rank."""


def find_hang(heartbeats: Heartbeats, hosts: Sequence[str], timeout_s: float, now_s: float) -> str | None:
    """The line with which all ranks end; None while each makes progress, or waits for one that has time left.

    A waiting rank is to blame only when it is silent, or when all ranks wait.
    """
    stuck = [rank for rank, heartbeat in heartbeats.items() if _is_stuck(heartbeat, timeout_s, now_s)]
    waiting = {r: each.position for r, each in heartbeats.items() if each.position.is_waiting and r not in stuck}
    if stuck:

        def by_blame(rank: int) -> tuple[bool, float, int]:
            """Silent ranks first, then those stuck for longest."""
            heartbeat = heartbeats[rank]
            return not _is_silent(heartbeat, timeout_s, now_s), -heartbeat.stuck_s(now_s), rank

        named = sorted(stuck, key=by_blame)[:MAX_NAMED]
        parts = [_describe(rank, heartbeats[rank], hosts, timeout_s, now_s) for rank in named]
        if len(stuck) > MAX_NAMED:
            parts.append(f"{len(stuck) - MAX_NAMED} more make no progress")
        return "; ".join(parts + describe_waiting(waiting))
    least_s = min(heartbeat.stuck_s(now_s) for heartbeat in heartbeats.values())
    if len(waiting) == len(heartbeats) and least_s > DEADLOCK_FRAC * timeout_s:
        return "; ".join([*describe_waiting(waiting), f"no rank has made progress for {least_s:.0f} s"])
    return None


def find_gone(heartbeats: Heartbeats, hosts: Sequence[str], silent_s: float, now_s: float) -> tuple[int, str] | None:
    """The rank that has been silent longest, and a line about it; None when no rank has been silent for `silent_s`."""
    rank = max(heartbeats, key=lambda rank: heartbeats[rank].silent_s(now_s))
    if heartbeats[rank].silent_s(now_s) < silent_s:
        return None
    return rank, f"{name_rank(rank, hosts)} is gone, last seen in {_show(heartbeats[rank].position)}"


def describe_waiting(positions: Mapping[int, Position]) -> list[str]:
    """`7 ranks wait in reduce of step 812`, the largest group first."""
    groups = Counter(_show(position) for position in positions.values())
    lines = []
    for place, number in groups.most_common():
        first = next(rank for rank, position in positions.items() if _show(position) == place)
        lines.append(f"{number} ranks wait in {place}" if number > 1 else f"rank {first} waits in {place}")
    return lines


def name_rank(rank: int, hosts: Sequence[str]) -> str:
    return f"rank {rank} ({hosts[rank]})"


def _is_stuck(heartbeat: Heartbeat, timeout_s: float, now_s: float) -> bool:
    if heartbeat.silent_s(now_s) > timeout_s:
        return True
    position = heartbeat.position
    limit_s = max(timeout_s, ALLOWANCE_S.get(position.phase, 0.0))
    return not position.is_waiting and heartbeat.stuck_s(now_s) > limit_s


def _is_silent(heartbeat: Heartbeat, timeout_s: float, now_s: float) -> bool:
    return heartbeat.silent_s(now_s) > SILENT_FRAC * timeout_s


def _describe(rank: int, heartbeat: Heartbeat, hosts: Sequence[str], timeout_s: float, now_s: float) -> str:
    name, place = name_rank(rank, hosts), _show(heartbeat.position)
    reading = f", reading {heartbeat.reading}" if heartbeat.reading is not None else ""
    if _is_silent(heartbeat, timeout_s, now_s):
        return f"{name} has been silent for {heartbeat.silent_s(now_s):.0f} s, last seen in {place}{reading}"
    return f"{name} has been in {place} for {heartbeat.stuck_s(now_s):.0f} s{reading}"


def _show(position: Position) -> str:
    return f"{position.phase} of step {position.step}"
