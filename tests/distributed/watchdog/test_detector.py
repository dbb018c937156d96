"""Detectors that hear each other through a list, by a clock that the test turns."""

from __future__ import annotations

import json

import pytest

from launcher.distributed.watchdog.beacon import Beacon, Position
from launcher.distributed.watchdog.detector import Failure, HangDetector
from launcher.distributed.world import World

HOSTS = ["a", "a", "b", "b"]


class Job:
    """Four ranks on two nodes, and a clock."""

    def __init__(self, timeout_s: float = 60.0) -> None:
        self.now_s = 0.0
        self.beacons = [Beacon() for _ in HOSTS]
        self.detectors = [
            HangDetector(World(rank, 4, rank % 2, 2, rank // 2, 2), HOSTS, timeout_s) for rank in range(4)
        ]

    def run(self, seconds: float, *silent: int) -> list[str | None]:
        """Send heartbeats for that long; what each rank concludes at the end of it. Nothing comes from or to those that are silent."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 1.0
            heard = [rank for rank in range(4) if rank not in silent]
            for rank in heard:
                self.detectors[rank].update(self.beacons[rank], self.now_s)
            for rank in heard:
                if rank and 0 in heard:
                    self.carry(rank, 0)
                    self.carry(0, rank)
        return [self.detectors[rank].conclude(self.now_s) for rank in range(4)]

    def carry(self, sender: int, receiver: int) -> None:
        self.detectors[receiver].receive(json.loads(json.dumps(self.detectors[sender].message())), self.now_s)

    def wait_in_reduce(self, *ranks: int) -> None:
        for rank in ranks:
            self.beacons[rank].position = Position("reduce", 5, True)


def test_rank_0_decides_and_the_others_do_not() -> None:
    job = Job()
    job.wait_in_reduce(0, 1, 2)
    job.beacons[3].enter("data", 5)
    assert job.run(60) == [None] * 4
    assert job.run(2) == [
        "rank 3 (b) has been in data of step 5 for 61 s; 3 ranks wait in reduce of step 5",
        None,
        None,
        None,
    ]
    assert job.detectors[0].should_speak()


def test_a_phase_entered_anew_is_progress_and_so_is_another_place() -> None:
    job = Job()
    for number in range(3):
        job.beacons[3].enter("evaluate")
        assert job.run(50)[0] is None
        job.beacons[3].readers = [lambda number=number: f"image {number}"]  # type: ignore[misc]
        assert job.run(50)[0] is None
    assert job.run(20)[0] is not None


def test_each_node_hears_when_rank_0_is_silent() -> None:
    job = Job()
    job.wait_in_reduce(0, 1, 2, 3)
    job.run(3)
    assert job.run(59, 0)[1:] == [None] * 3
    line = "rank 0 (a) has not been heard from for 64 s; it was last in reduce of step 5"
    assert job.run(5, 0)[1:] == [line] * 3
    assert [detector.should_speak() for detector in job.detectors[1:]] == [True, True, False]


def test_a_job_stopped_as_a_whole_is_excused() -> None:
    job = Job()
    job.beacons[3].enter("data", 5)
    job.run(3)
    job.now_s += 3600.0
    assert job.run(58) == [None] * 4
    assert job.run(5)[0] is not None


def test_rank_0_decides_who_failed_first() -> None:
    job = Job()
    job.run(3)
    for rank in (3, 1):
        job.detectors[rank].blame(Failure(rank, f"rank {rank} failed", True), job.now_s, is_decided=False)
        job.carry(rank, 0)
    assert not job.detectors[1].is_decided
    job.carry(0, 1)
    assert job.detectors[1].is_decided
    assert [job.detectors[rank].first for rank in (0, 1)] == [Failure(3, "rank 3 failed", True)] * 2


def test_a_failure_ends_the_others_after_a_grace() -> None:
    job = Job()
    job.run(3)
    job.detectors[3].blame(Failure(3, "rank 3 failed", True), job.now_s, is_decided=False)
    assert job.run(3) == [None] * 4
    assert job.run(3) == ["rank 3 failed"] * 3 + [None]
    assert [detector.should_speak() for detector in job.detectors[:3]] == [True, False, False]


def test_a_failure_on_rank_0_s_node_is_not_repeated() -> None:
    job = Job()
    job.run(3)
    job.detectors[0].blame(Failure(1, "rank 1 failed", True), job.now_s, is_decided=True)
    assert not job.detectors[0].should_speak()


def test_a_rank_that_is_heard_is_not_gone() -> None:
    job = Job()
    job.run(3)
    job.detectors[0].blame_lost_rank(job.now_s)
    assert job.detectors[0].first is None
    job.run(3, 2)
    job.detectors[0].blame_lost_rank(job.now_s)
    assert job.detectors[0].first is not None
    assert job.detectors[0].first.words.startswith(
        "rank 2 (b) is gone; it was last in prepare of step 0; see logs/rank-2"
    )


@pytest.mark.parametrize(("size", "timeout_s", "interval_s"), [(2, 600.0, 1.0), (4096, 600.0, 8.192), (2, 3.0, 0.3)])
def test_interval(size: int, timeout_s: float, interval_s: float) -> None:
    assert HangDetector(World(0, size, 0, 1, 0, size), [""] * size, timeout_s).interval_s == pytest.approx(interval_s)
