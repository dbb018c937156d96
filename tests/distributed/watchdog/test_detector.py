"""Watches that hear each other through a list, by a clock that the test turns."""

from __future__ import annotations

import json

import pytest

from launcher.distributed.watchdog.beacon import Pulse
from launcher.distributed.watchdog.detector import Failure, Watch
from launcher.distributed.world import World

HOSTS = ["a", "a", "b", "b"]


class Job:
    """Four ranks on two nodes, and a clock."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.now_s = 0.0
        self.pulses = [Pulse() for _ in HOSTS]
        self.watches = [Watch(World(rank, 4, rank % 2, 2, rank // 2, 2), HOSTS, timeout_s) for rank in range(4)]

    def turn(self, seconds: float, *silent: int) -> list[str | None]:
        """Beat for that long; what each concludes at the end of it. Nothing comes from or to those that are silent."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 1.0
            heard = [rank for rank in range(4) if rank not in silent]
            for rank in heard:
                self.watches[rank].look(self.pulses[rank], self.now_s)
            for rank in heard:
                if rank and 0 in heard:
                    self.carry(rank, 0)
                    self.carry(0, rank)
        return [self.watches[rank].conclude(self.now_s) for rank in range(4)]

    def carry(self, sender: int, receiver: int) -> None:
        self.watches[receiver].hear(json.loads(json.dumps(self.watches[sender].say())), self.now_s)

    def wait_in_reduce(self, *ranks: int) -> None:
        for rank in ranks:
            self.pulses[rank].at = ("reduce", 5, True)


def test_rank_0_decides_and_the_others_do_not() -> None:
    job = Job()
    job.wait_in_reduce(0, 1, 2)
    job.pulses[3].at = ("data", 5, False)
    assert job.turn(60) == [None] * 4
    assert job.turn(2) == ["rank 3 (b) in data for 61 s; 3 ranks wait in reduce of step 5", None, None, None]
    assert job.watches[0].should_speak()


def test_a_phase_entered_anew_is_progress_and_so_is_another_place() -> None:
    job = Job()
    for number in range(3):
        job.pulses[3].enter("eval")
        assert job.turn(50)[0] is None
        job.pulses[3].readers = [lambda number=number: f"image {number}"]  # type: ignore[misc]
        assert job.turn(50)[0] is None
    assert job.turn(20)[0] is not None


def test_each_node_hears_when_rank_0_is_silent() -> None:
    job = Job()
    job.wait_in_reduce(0, 1, 2, 3)
    job.turn(3)
    assert job.turn(59, 0)[1:] == [None] * 3
    line = "rank 0 (a) not heard of for 64 s, last in reduce of step 5"
    assert job.turn(5, 0)[1:] == [line] * 3
    assert [watch.should_speak() for watch in job.watches[1:]] == [True, True, False]


def test_who_was_stopped_as_a_whole_is_excused() -> None:
    job = Job()
    job.pulses[3].at = ("data", 5, False)
    job.turn(3)
    job.now_s += 3600.0
    assert job.turn(58) == [None] * 4
    assert job.turn(5)[0] is not None


def test_rank_0_decides_who_failed_first() -> None:
    job = Job()
    job.turn(3)
    for rank in (3, 1):
        job.watches[rank].blame(Failure(rank, f"rank {rank} failed", True), job.now_s, is_decided=False)
        job.carry(rank, 0)
    assert not job.watches[1].is_decided
    job.carry(0, 1)
    assert job.watches[1].is_decided
    assert [job.watches[rank].first for rank in (0, 1)] == [Failure(3, "rank 3 failed", True)] * 2


def test_a_failure_ends_the_others_after_a_grace() -> None:
    job = Job()
    job.turn(3)
    job.watches[3].blame(Failure(3, "rank 3 failed", True), job.now_s, is_decided=False)
    assert job.turn(3) == [None] * 4
    assert job.turn(3) == ["rank 3 failed"] * 3 + [None]
    assert [watch.should_speak() for watch in job.watches[:3]] == [True, False, False]


def test_a_failure_on_rank_0_s_node_is_not_repeated() -> None:
    job = Job()
    job.turn(3)
    job.watches[0].blame(Failure(1, "rank 1 failed", True), job.now_s, is_decided=True)
    assert not job.watches[0].should_speak()


def test_nobody_is_gone_who_is_heard() -> None:
    job = Job()
    job.turn(3)
    job.watches[0].blame_who_is_gone(job.now_s)
    assert job.watches[0].first is None
    job.turn(3, 2)
    job.watches[0].blame_who_is_gone(job.now_s)
    assert job.watches[0].first is not None
    assert job.watches[0].first.words.startswith(
        "rank 2 (b) is gone, last heard of in prepare of step 0; see logs/rank-2"
    )


@pytest.mark.parametrize(("size", "timeout_s", "interval_s"), [(2, 600.0, 1.0), (4096, 600.0, 8.192), (2, 3.0, 0.3)])
def test_interval(size: int, timeout_s: float, interval_s: float) -> None:
    assert Watch(World(0, size, 0, 1, 0, size), [""] * size, timeout_s).interval_s == pytest.approx(interval_s)
