"""The beats of processes -> who holds the others up, in words. Pure; needs no torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from launcher.distributed.watchdog.beacon import At

ALLOWANCE_S = {"prepare": 3600.0, "save": 3600.0, "finish": 3600.0}
"""Phases that may take longer than `strategy.hang_timeout_s`: compiling, hashing; a slow disk; W&B's last words.

What reads images or computes features in them moves on, and is watched as anywhere else.
"""

SILENT_FRAC = 0.5
"""Of the timeout without a beat, from which on a process is called silent: five beats or more."""

DEADLOCK_FRAC = 1.2
"""Of the timeout, after which all that wait are told of: if one of them is silent, it has been found by then."""

MAX_NAMED = 3
"""Ranks that a line names; the others are counted."""


@dataclass(frozen=True, slots=True)
class Beat:
    """What a process last said of itself. `for_s`: how long it was there already. `heard_s`: when it said so."""

    at: At
    place: str | None
    for_s: float
    heard_s: float

    def stands_s(self, now_s: float) -> float:
        """For how long it has not moved. Of one that is not heard any more nobody knows better."""
        return self.for_s + now_s - self.heard_s

    def silent_s(self, now_s: float) -> float:
        return now_s - self.heard_s


def find_hang(beats: Mapping[int, Beat], hosts: Sequence[str], timeout_s: float, now_s: float) -> str | None:
    """None while all move, or wait for one that may still take its time.

    Who waits for others is to blame only when it falls silent, or when there is nobody who does not wait.
    """
    stuck = [rank for rank, beat in beats.items() if _is_stuck(beat, timeout_s, now_s)]
    others = [rank for rank in beats if rank not in stuck]
    if stuck:
        stuck.sort(key=lambda rank: (not _is_silent(beats[rank], timeout_s, now_s), -beats[rank].stands_s(now_s), rank))
        parts = [_describe(rank, beats[rank], hosts, timeout_s, now_s) for rank in stuck[:MAX_NAMED]]
        if len(stuck) > MAX_NAMED:
            parts.append(f"{len(stuck) - MAX_NAMED} more do not move either")
        return "; ".join(parts + describe_waiting({rank: beats[rank].at for rank in others if beats[rank].at[2]}))
    moved_s = min(beat.stands_s(now_s) for beat in beats.values())
    if all(beat.at[2] for beat in beats.values()) and moved_s > DEADLOCK_FRAC * timeout_s:
        waiting = describe_waiting({rank: beat.at for rank, beat in beats.items()})
        return "; ".join([*waiting, f"nothing has moved for {moved_s:.0f} s, and nobody is elsewhere"])
    return None


def find_gone(beats: Mapping[int, Beat], hosts: Sequence[str], silent_s: float, now_s: float) -> tuple[int, str] | None:
    """The rank that has been silent for longest, of those that have been for `silent_s`; and that it is gone."""
    rank = max(beats, key=lambda rank: beats[rank].silent_s(now_s))
    if beats[rank].silent_s(now_s) < silent_s:
        return None
    return rank, f"{name_rank(rank, hosts)} is gone, last heard of in {_phase(beats[rank].at)}"


def describe_waiting(ats: Mapping[int, At]) -> list[str]:
    """`7 ranks wait in reduce of step 812`, the most first."""
    groups = Counter(_phase(at) for at in ats.values())
    lines = []
    for phase, number in groups.most_common():
        first = next(rank for rank, at in ats.items() if _phase(at) == phase)
        lines.append(f"{number} ranks wait in {phase}" if number > 1 else f"rank {first} waits in {phase}")
    return lines


def name_rank(rank: int, hosts: Sequence[str]) -> str:
    return f"rank {rank} ({hosts[rank]})"


def _is_stuck(beat: Beat, timeout_s: float, now_s: float) -> bool:
    phase, _, waits = beat.at
    if beat.silent_s(now_s) > timeout_s:
        return True
    return not waits and beat.stands_s(now_s) > max(timeout_s, ALLOWANCE_S.get(phase, 0.0))


def _is_silent(beat: Beat, timeout_s: float, now_s: float) -> bool:
    return beat.silent_s(now_s) > SILENT_FRAC * timeout_s


def _describe(rank: int, beat: Beat, hosts: Sequence[str], timeout_s: float, now_s: float) -> str:
    place = f" at {beat.place}" if beat.place is not None else ""
    if _is_silent(beat, timeout_s, now_s):
        return (
            f"{name_rank(rank, hosts)} not heard of for {beat.silent_s(now_s):.0f} s, last in {_phase(beat.at)}{place}"
        )
    return f"{name_rank(rank, hosts)} in {beat.at[0]} for {beat.stands_s(now_s):.0f} s{place}"


def _phase(at: At) -> str:
    return f"{at[0]} of step {at[1]}"
