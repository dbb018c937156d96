from __future__ import annotations

import pytest

from launcher.distributed.watchdog.beacon import Position
from launcher.distributed.watchdog.hang import ALLOWANCE_S, Heartbeat, find_gone, find_hang

HOSTS = [f"node{1 + rank // 2}" for rank in range(8)]
TIMEOUT_S = 60.0
NOW_S = 1000.0
REDUCE = Position("reduce", 812, True)
DATA = Position("data", 812, False)


def heartbeat(position: Position, for_s: float = 0.0, silent_s: float = 0.0, reading: str | None = None) -> Heartbeat:
    return Heartbeat(position, reading, for_s, NOW_S - silent_s)


def hang(**changes: Heartbeat) -> str | None:
    """Eight ranks in reduce for 73 s, but for those changed."""
    heartbeats = {rank: heartbeat(REDUCE, 73.0) for rank in range(8)}
    return find_hang(heartbeats | {int(name[1:]): each for name, each in changes.items()}, HOSTS, TIMEOUT_S, NOW_S)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"r3": heartbeat(DATA, 62.0, 0.4, "shard-0042.tar: image 7")},
            "rank 3 (node2) has been in data of step 812 for 62 s, reading shard-0042.tar: image 7; 7 ranks wait in reduce of step 812",
        ),
        (
            {"r3": heartbeat(DATA, 62.0), "r0": heartbeat(Position("reduce", 811, True), 70.0)},
            "rank 3 (node2) has been in data of step 812 for 62 s; 6 ranks wait in reduce of step 812; rank 0 waits in reduce of step 811",
        ),
        (
            {"r3": heartbeat(REDUCE, 1.0, 61.0)},
            "rank 3 (node2) has not been heard from for 61 s; it was last in reduce of step 812; 7 ranks wait in reduce of step 812",
        ),
        (
            {f"r{rank}": heartbeat(DATA, 62.0 + rank) for rank in range(3, 8)},
            "rank 7 (node4) has been in data of step 812 for 69 s; rank 6 (node4) has been in data of step 812 for 68 s; rank 5 (node3) has been in data of step 812 for 67 s; "  # noqa: ISC004
            "2 more make no progress either; 3 ranks wait in reduce of step 812",
        ),
        ({"r3": heartbeat(Position("forward", 812, False), 61.0)},
         "rank 3 (node2) has been in forward of step 812 for 61 s; 7 ranks wait in reduce of step 812"),
        ({}, "8 ranks wait in reduce of step 812; no rank has made progress for 73 s, and all wait"),
        ({"r3": heartbeat(Position("prepare", 0, False), 1.0, 61.0)},
         "rank 3 (node2) has not been heard from for 61 s; it was last in prepare of step 0; 7 ranks wait in reduce of step 812"),
    ],
)  # fmt: skip
def test_line(changes: dict[str, Heartbeat], line: str) -> None:
    assert hang(**changes) == line


@pytest.mark.parametrize(
    "third",
    [
        heartbeat(DATA, 59.0),
        heartbeat(DATA, 30.0, 29.0),
        heartbeat(REDUCE, 12.0, 59.0),  # silent, and to be found soon
        heartbeat(REDUCE, 59.0),  # it has come there only now
        heartbeat(Position("prepare", 0, False), ALLOWANCE_S["prepare"] - 1),
        heartbeat(Position("finish", 0, False), ALLOWANCE_S["finish"] - 1),
        heartbeat(Position("features", 0, False), 59.0),
    ],
)
def test_one_that_may_still_take_its_time_excuses_those_that_wait(third: Heartbeat) -> None:
    assert hang(r3=third) is None


def test_a_long_phase_ends_too() -> None:
    line = hang(r3=heartbeat(Position("prepare", 0, False), ALLOWANCE_S["prepare"] + 1))
    assert line is not None
    assert line.startswith("rank 3 (node2) has been in prepare of step 0 for 3601 s; 7 ranks wait")


def test_the_one_silent_for_longest_is_gone() -> None:
    heartbeats = {0: heartbeat(REDUCE), 1: heartbeat(DATA, 0.0, 4.0), 2: heartbeat(REDUCE, 0.0, 3.0)}
    assert find_gone(heartbeats, HOSTS, 2.0, NOW_S) == (1, "rank 1 (node1) is gone; it was last in data of step 812")
    assert find_gone(heartbeats, HOSTS, 5.0, NOW_S) is None
