"""Detectors whose messages the test carries, with a clock that the test sets."""

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
        """What each rank concludes after that time of heartbeats. `silent` ranks neither send nor receive."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 1.0
            sending = [rank for rank in range(4) if rank not in silent]
            for rank in sending:
                self.detectors[rank].update(self.beacons[rank], self.now_s)
            for rank in sending:
                if rank and 0 in sending:
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
    assert job.detectors[0].should_print()


def test_entering_a_phase_again_and_reading_another_image_are_progress() -> None:
    job = Job()
    for number in range(3):
        job.beacons[3].enter("evaluate")
        assert job.run(50)[0] is None
        job.beacons[3].readers = [lambda number=number: f"image {number}"]  # type: ignore[misc]
        assert job.run(50)[0] is None
    assert job.run(20)[0] is not None


def test_each_rank_ends_by_itself_when_rank_0_is_silent() -> None:
    job = Job()
    job.wait_in_reduce(0, 1, 2, 3)
    job.run(3)
    assert job.run(59, 0)[1:] == [None] * 3
    line = "rank 0 (a) has been silent for 64 s, last seen in reduce of step 5"
    assert job.run(5, 0)[1:] == [line] * 3
    assert [detector.should_print() for detector in job.detectors[1:]] == [True, True, False]


def test_a_job_that_was_stopped_as_a_whole_does_not_end() -> None:
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
        job.detectors[rank].blame(Failure(rank, f"rank {rank} failed", is_printed=True), job.now_s, is_decided=False)
        job.carry(rank, 0)
    assert not job.detectors[1].is_decided
    job.carry(0, 1)
    assert job.detectors[1].is_decided
    assert [job.detectors[rank].first for rank in (0, 1)] == [Failure(3, "rank 3 failed", is_printed=True)] * 2


def test_a_failure_ends_the_others_after_the_grace_time() -> None:
    job = Job()
    job.run(3)
    job.detectors[3].blame(Failure(3, "rank 3 failed", is_printed=True), job.now_s, is_decided=False)
    assert job.run(3) == [None] * 4
    assert job.run(3) == ["rank 3 failed"] * 3 + [None]
    assert [detector.should_print() for detector in job.detectors[:3]] == [True, False, False]


def test_a_failure_on_rank_0s_node_is_not_printed_again() -> None:
    job = Job()
    job.run(3)
    job.detectors[0].blame(Failure(1, "rank 1 failed", is_printed=True), job.now_s, is_decided=True)
    assert not job.detectors[0].should_print()


def test_a_rank_that_sends_heartbeats_is_not_gone() -> None:
    job = Job()
    job.run(3)
    job.detectors[0].blame_lost_rank(job.now_s)
    assert job.detectors[0].first is None
    job.run(3, 2)
    job.detectors[0].blame_lost_rank(job.now_s)
    assert job.detectors[0].first is not None
    assert job.detectors[0].first.text == (
        "rank 2 (b) is gone, last seen in prepare of step 0; see logs/rank-2.log in the run folder; "
        "the same command resumes"
    )


@pytest.mark.parametrize(("size", "timeout_s", "interval_s"), [(2, 600.0, 1.0), (4096, 600.0, 8.192), (2, 3.0, 0.3)])
def test_the_interval_grows_with_the_ranks_and_fits_the_timeout(size: int, timeout_s: float, interval_s: float) -> None:
    assert HangDetector(World(0, size, 0, 1, 0, size), [""] * size, timeout_s).interval_s == pytest.approx(interval_s)
