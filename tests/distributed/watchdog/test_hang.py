from __future__ import annotations

import pytest

from launcher.distributed.watchdog.beacon import At
from launcher.distributed.watchdog.hang import ALLOWANCE_S, Beat, find_gone, find_hang

HOSTS = [f"node{1 + rank // 2}" for rank in range(8)]
TIMEOUT_S = 60.0
NOW_S = 1000.0
REDUCE: At = ("reduce", 812, True)
DATA: At = ("data", 812, False)


def beat(at: At, for_s: float = 0.0, silent_s: float = 0.0, place: str | None = None) -> Beat:
    return Beat(at, place, for_s, NOW_S - silent_s)


def hang(**changes: Beat) -> str | None:
    """Eight ranks in reduce for 73 s, but for those changed."""
    beats = {rank: beat(REDUCE, 73.0) for rank in range(8)}
    return find_hang(beats | {int(name[1:]): each for name, each in changes.items()}, HOSTS, TIMEOUT_S, NOW_S)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"r3": beat(DATA, 62.0, 0.4, "shard-0042.tar: image 7")},
            "rank 3 (node2) in data for 62 s at shard-0042.tar: image 7; 7 ranks wait in reduce of step 812",
        ),
        (
            {"r3": beat(DATA, 62.0), "r0": beat(("reduce", 811, True), 70.0)},
            "rank 3 (node2) in data for 62 s; 6 ranks wait in reduce of step 812; rank 0 waits in reduce of step 811",
        ),
        (
            {"r3": beat(REDUCE, 1.0, 61.0)},
            "rank 3 (node2) not heard of for 61 s, last in reduce of step 812; 7 ranks wait in reduce of step 812",
        ),
        (
            {f"r{rank}": beat(DATA, 62.0 + rank) for rank in range(3, 8)},
            "rank 7 (node4) in data for 69 s; rank 6 (node4) in data for 68 s; rank 5 (node3) in data for 67 s; "  # noqa: ISC004
            "2 more do not move either; 3 ranks wait in reduce of step 812",
        ),
        ({"r3": beat(("forward", 812, False), 61.0)},
         "rank 3 (node2) in forward for 61 s; 7 ranks wait in reduce of step 812"),
        ({}, "8 ranks wait in reduce of step 812; nothing has moved for 73 s, and nobody is elsewhere"),
        ({"r3": beat(("prepare", 0, False), 1.0, 61.0)},
         "rank 3 (node2) not heard of for 61 s, last in prepare of step 0; 7 ranks wait in reduce of step 812"),
    ],
)  # fmt: skip
def test_line(changes: dict[str, Beat], line: str) -> None:
    assert hang(**changes) == line


@pytest.mark.parametrize(
    "third",
    [
        beat(DATA, 59.0),
        beat(DATA, 30.0, 29.0),
        beat(REDUCE, 12.0, 59.0),  # silent, and to be found soon
        beat(REDUCE, 59.0),  # it has come there only now
        beat(("prepare", 0, False), ALLOWANCE_S["prepare"] - 1),
        beat(("finish", 0, False), ALLOWANCE_S["finish"] - 1),
        beat(("features", 0, False), 59.0),
    ],
)
def test_one_that_may_still_take_its_time_excuses_those_that_wait(third: Beat) -> None:
    assert hang(r3=third) is None


def test_a_long_phase_ends_too() -> None:
    line = hang(r3=beat(("prepare", 0, False), ALLOWANCE_S["prepare"] + 1))
    assert line is not None
    assert line.startswith("rank 3 (node2) in prepare for 3601 s; 7 ranks wait")


def test_the_one_silent_for_longest_is_gone() -> None:
    beats = {0: beat(REDUCE), 1: beat(DATA, 0.0, 4.0), 2: beat(REDUCE, 0.0, 3.0)}
    assert find_gone(beats, HOSTS, 2.0, NOW_S) == (1, "rank 1 (node1) is gone, last heard of in data of step 812")
    assert find_gone(beats, HOSTS, 5.0, NOW_S) is None
