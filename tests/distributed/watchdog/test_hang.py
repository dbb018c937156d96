from __future__ import annotations

import pytest

from launcher.distributed.watchdog.beacon import Position
from launcher.distributed.watchdog.hang import ALLOWANCE_S, Heartbeat, find_gone, find_hang

HOSTS = [f"node{1 + rank // 2}" for rank in range(8)]
TIMEOUT_S = 60.0
NOW_S = 1000.0
REDUCE = Position("reduce", 812, True)
DATA = Position("data", 812, False)


def heartbeat(position: Position, idle_s: float = 0.0, silent_s: float = 0.0, reading: str | None = None) -> Heartbeat:
    return Heartbeat(position, reading, idle_s, NOW_S - silent_s)


def hang(**changes: Heartbeat) -> str | None:
    """The line for eight ranks in reduce for 73 s, but for the `changes`."""
    heartbeats = {rank: heartbeat(REDUCE, 73.0) for rank in range(8)}
    return find_hang(heartbeats | {int(name[1:]): each for name, each in changes.items()}, HOSTS, TIMEOUT_S, NOW_S)


STEP_812 = "7 ranks wait in reduce of step 812"


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (
            {"r3": heartbeat(DATA, 62.0, 0.4, "shard-0042.tar: image 7")},
            ["rank 3 (node2) has been in data of step 812 for 62 s, reading shard-0042.tar: image 7", STEP_812],
        ),
        (
            {"r3": heartbeat(DATA, 62.0), "r0": heartbeat(Position("reduce", 811, True), 70.0)},
            [
                "rank 3 (node2) has been in data of step 812 for 62 s",
                "6 ranks wait in reduce of step 812",
                "rank 0 waits in reduce of step 811",
            ],
        ),
        (
            {"r3": heartbeat(REDUCE, 1.0, 61.0)},
            ["rank 3 (node2) has been silent for 61 s, last seen in reduce of step 812", STEP_812],
        ),
        (
            {f"r{rank}": heartbeat(DATA, 62.0 + rank) for rank in range(3, 8)},
            [
                "rank 7 (node4) has been in data of step 812 for 69 s",
                "rank 6 (node4) has been in data of step 812 for 68 s",
                "rank 5 (node3) has been in data of step 812 for 67 s",
                "2 more make no progress",
                "3 ranks wait in reduce of step 812",
            ],
        ),
        (
            {"r3": heartbeat(Position("forward", 812, False), 61.0)},
            ["rank 3 (node2) has been in forward of step 812 for 61 s", STEP_812],
        ),
        ({}, ["8 ranks wait in reduce of step 812", "no rank has made progress for 73 s"]),
        (
            {"r3": heartbeat(Position("prepare", 0, False), 1.0, 61.0)},
            ["rank 3 (node2) has been silent for 61 s, last seen in prepare of step 0", STEP_812],
        ),
        (
            {"r3": heartbeat(DATA, 90.0), "r5": heartbeat(REDUCE, 1.0, 61.0)},
            [
                "rank 5 (node3) has been silent for 61 s, last seen in reduce of step 812",
                "rank 3 (node2) has been in data of step 812 for 90 s",
                "6 ranks wait in reduce of step 812",
            ],
        ),
    ],
)
def test_the_line_names_who_makes_no_progress_and_who_waits(changes: dict[str, Heartbeat], parts: list[str]) -> None:
    assert hang(**changes) == "; ".join(parts)


@pytest.mark.parametrize(
    "third",
    [
        heartbeat(DATA, 59.0),
        heartbeat(DATA, 30.0, 29.0),
        heartbeat(REDUCE, 12.0, 59.0),  # silent, but not for the whole timeout yet
        heartbeat(REDUCE, 59.0),  # not waiting for long enough
        heartbeat(Position("prepare", 0, False), ALLOWANCE_S["prepare"] - 1),
        heartbeat(Position("finish", 0, False), ALLOWANCE_S["finish"] - 1),
        heartbeat(Position("features", 0, False), 59.0),
    ],
)
def test_ranks_may_wait_for_one_that_has_time_left(third: Heartbeat) -> None:
    assert hang(r3=third) is None


def test_a_long_phase_has_a_limit_too() -> None:
    line = hang(r3=heartbeat(Position("prepare", 0, False), ALLOWANCE_S["prepare"] + 1))
    assert line == f"rank 3 (node2) has been in prepare of step 0 for 3601 s; {STEP_812}"


def test_the_rank_silent_for_longest_is_gone() -> None:
    heartbeats = {0: heartbeat(REDUCE), 1: heartbeat(DATA, 0.0, 4.0), 2: heartbeat(REDUCE, 0.0, 3.0)}
    assert find_gone(heartbeats, HOSTS, 2.0, NOW_S) == (1, "rank 1 (node1) is gone, last seen in data of step 812")
    assert find_gone(heartbeats, HOSTS, 5.0, NOW_S) is None
