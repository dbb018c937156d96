"""Every fault, seen from both sides, by real processes and a real channel without torch; then parts alone."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launcher.distributed.watchdog import thread as thread_module
from launcher.distributed.watchdog.beacon import Beacon, Position
from launcher.distributed.watchdog.channel import Message, NullChannel
from launcher.distributed.watchdog.detector import Failure, HangDetector
from launcher.distributed.watchdog.thread import ThreadWatchdog, listen
from launcher.distributed.world import World
from launcher.errors import RankLost, Stopped, UserError

PROGRAM = Path(__file__).parent / "faulty_rank.py"

IN_DATA = "has been in data of step 812 for 1 s, reading train-00042.tar: image 17"


@dataclass
class Processes:
    folder: Path
    processes: list[subprocess.Popen[str]]

    def start(self, *faults: str) -> None:
        for rank, fault in enumerate(faults):
            words = [sys.executable, str(PROGRAM), str(rank), str(len(faults)), str(self.folder), fault]
            process = subprocess.Popen(words, cwd=self.folder, stderr=subprocess.PIPE, text=True)
            self.processes.append(process)

    def wait_for(self, name: str) -> None:
        until_s = time.monotonic() + 30
        while not (self.folder / name).exists():
            assert time.monotonic() < until_s
            time.sleep(0.01)

    def end(self, *ranks: int) -> list[str]:
        """What each has printed; all must end with exit code 1."""
        printed = [self.processes[rank].communicate(timeout=30)[1] for rank in ranks]
        assert [self.processes[rank].returncode for rank in ranks] == [1] * len(ranks), printed
        return printed

    def log(self, rank: int) -> str:
        return (self.folder / f"rank-{rank}.log").read_text()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    started = Processes(tmp_path, [])
    yield started
    for process in started.processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def test_all_end_when_one_hangs(processes: Processes) -> None:
    processes.start("wait", "wait", "wait", "data")
    printed = processes.end(0, 1, 2, 3)
    line = f"rank 3 (node2) {IN_DATA}; 3 ranks wait in reduce of step 812"
    assert printed == [f"launcher: {line}\n", "", "", ""]
    for rank, stack in enumerate(["in wait", "in wait", "in wait", "in hang_in_data"]):
        assert line in processes.log(rank)
        assert stack in processes.log(rank)


def test_rank_0_reports_its_own_hang(processes: Processes) -> None:
    processes.start("data", "wait")
    printed = processes.end(0, 1)
    assert printed[0].startswith(f"launcher: rank 0 (node1) {IN_DATA}; rank 1 waits")
    assert printed[1] == ""
    assert "in hang_in_data" in processes.log(0)


def test_a_single_process_reports_its_own_hang(processes: Processes) -> None:
    processes.start("data")
    assert processes.end(0) == [f"launcher: rank 0 (node1) {IN_DATA}\n"]
    assert "in hang_in_data" in processes.log(0)


def test_all_end_when_all_wait(processes: Processes) -> None:
    processes.start("wait", "wait")
    line = "launcher: 2 ranks wait in reduce of step 812; no rank has made progress for 1 s\n"
    assert processes.end(0, 1) == [line, ""]


def test_a_stopped_rank_is_silent(processes: Processes) -> None:
    processes.start("turn", "turn")
    processes.wait_for("ready")
    time.sleep(0.3)
    processes.processes[1].send_signal(signal.SIGSTOP)
    [printed] = processes.end(0)
    line = r"launcher: rank 1 \(node1\) has been silent for [12] s, last seen in prepare of step 0; rank 0 waits in"
    assert re.match(line, printed)
    processes.processes[1].send_signal(signal.SIGCONT)
    assert processes.end(1) == [""]
    assert "in turn" in processes.log(1)


def test_the_others_end_by_themselves_when_rank_0_is_stopped(processes: Processes) -> None:
    """The second prints the line; the third is on the same console, though on another node."""
    processes.start("turn", "turn", "turn")
    processes.wait_for("ready")
    time.sleep(0.3)
    processes.processes[0].send_signal(signal.SIGSTOP)
    printed = processes.end(1, 2)
    assert re.match(r"launcher: rank 0 \(node1\) has been silent for 1 s, last seen in prepare of step 0", printed[0])
    assert printed[1] == ""
    processes.processes[0].send_signal(signal.SIGCONT)
    processes.end(0)
    assert "in turn" in processes.log(0)


def test_a_rank_that_keeps_pythons_lock_is_silent(processes: Processes) -> None:
    processes.start("wait", "lock")
    [printed] = processes.end(0)
    assert printed.startswith("launcher: rank 1 (node1) has been silent for 1 s, last seen in forward of step 812")
    until_s = time.monotonic() + 10
    while "in keep_the_lock" not in processes.log(1):
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.mark.parametrize(("killed", "left", "printing"), [(2, (0, 1), 0), (0, (1, 2), 1)])
def test_a_killed_rank_is_named_by_those_that_lost_it(
    processes: Processes, killed: int, left: tuple[int, int], printing: int
) -> None:
    processes.start(*("wait" if rank == killed else "lost" for rank in range(3)))
    processes.wait_for("ready")
    time.sleep(0.3)
    processes.processes[killed].kill()
    (processes.folder / "killed").touch()
    printed = dict(zip(left, processes.end(*left), strict=True))
    line = printed.pop(printing)
    assert re.match(rf"lost: rank {killed} \(node[12]\) is gone, last seen in \w+ of step \d+; see logs/rank-", line)
    assert list(printed.values()) == [""]


def test_a_rank_that_fails_prints_why_and_ends_the_others(processes: Processes) -> None:
    """Rank 0 prints it, too: it is on another node. No rank waits for the timeout of a collective."""
    processes.start("wait", "wait", "fail")
    printed = processes.end(0, 1, 2)
    assert printed[0].startswith("launcher: rank 2 (node2) failed:\nTraceback")
    assert printed[0].endswith("ArithmeticError: broken on purpose\n")
    assert printed[1:] == ["", "own: ArithmeticError\n"]


def test_ranks_that_make_progress_or_may_take_long_are_not_ended(processes: Processes) -> None:
    processes.start("move", "prepare")
    for process in processes.processes:
        assert process.communicate(timeout=30)[1] == ""
        assert process.returncode == 0


class QueueChannel:
    """A channel whose messages have all come already."""

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.answered: list[int] = []

    def send(self, rank: int, message: Message) -> None:
        self.answered.append(rank)

    def receive(self, timeout_s: float) -> Message | None:
        return self.messages.pop(0) if self.messages else None

    def close(self) -> None:
        pass


class Clock:
    def __init__(self, now_s: float) -> None:
        self.now_s = now_s

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(100.0)
    monkeypatch.setattr(thread_module, "time", clock)
    return clock


def detector_of(rank: int, size: int, now_s: float) -> HangDetector:
    """With a timeout of 10 s, a heartbeat a second, and one of every rank at `now_s`."""
    detector = HangDetector(World(rank, size, rank, size), ["node1"] * size, 10.0)
    for each in range(size):
        detector.receive(heartbeat_of(each), now_s)
    detector.update(Beacon(), now_s)
    return detector


def heartbeat_of(rank: int) -> Message:
    return {"rank": rank, "heartbeat": [*Position("reduce", 5, True), None, 0.0], "first": None, "ending": None}


def test_a_process_that_was_stopped_reads_what_has_come_before_it_blames_a_rank(clock: Clock) -> None:
    """It was stopped for 5 s while it listened, and a collective fails then."""
    detector = detector_of(0, 3, clock.now_s)
    channel = QueueChannel([heartbeat_of(rank) for rank in (1, 2)])
    until_s = clock.now_s + 1
    clock.now_s += 5
    listen(channel, detector, until_s, lambda: False)
    assert channel.answered == [1, 2]
    detector.update(Beacon(), clock.now_s)
    detector.blame_lost_rank(clock.now_s)
    assert detector.first is None


def test_late_messages_are_read_up_to_two_for_each_rank(clock: Clock) -> None:
    channel = QueueChannel([heartbeat_of(1)] * 100)
    listen(channel, detector_of(0, 3, clock.now_s), clock.now_s - 1, lambda: False)
    assert len(channel.messages) == 94


def test_a_closed_watchdog_and_one_that_ends_read_nothing_more(clock: Clock) -> None:
    channel, detector = QueueChannel([heartbeat_of(1)]), detector_of(0, 2, clock.now_s)
    listen(channel, detector, clock.now_s + 1, lambda: True)
    detector.ending = "rank 1 (node1) failed"
    listen(channel, detector, clock.now_s + 1, lambda: False)
    assert len(channel.messages) == 1


def test_another_rank_than_0_does_not_answer(clock: Clock) -> None:
    channel = QueueChannel([heartbeat_of(0)])
    listen(channel, detector_of(1, 2, clock.now_s), clock.now_s - 1, lambda: False)
    assert not channel.messages
    assert not channel.answered


class RecordingChannel(NullChannel):
    """Receives nothing, and keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[Message] = []

    def send(self, rank: int, message: Message) -> None:
        self.sent.append(message)


@dataclass
class Rank1:
    """The watchdog of rank 1 of 2, which does not wait for rank 0's decision."""

    detector: HangDetector
    channel: RecordingChannel
    watchdog: ThreadWatchdog

    def failures(self) -> list[str]:
        """Texts of the failures that were sent to rank 0."""
        return [message["first"]["text"] for message in self.channel.sent if message["first"] is not None]


@pytest.fixture
def rank1(tmp_path: Path) -> Iterator[Rank1]:
    detector, channel = HangDetector(World(1, 2, 1, 2), ["node1"] * 2, 600.0), RecordingChannel()
    detector.grace_s = 0.0
    watchdog = ThreadWatchdog(detector, Beacon(), channel, tmp_path / "rank-1.log", lambda line: None)
    yield Rank1(detector, channel, watchdog)
    watchdog.close()


LOST = RuntimeError("Connection closed by peer [127.0.0.1]:1")


def test_a_rank_reports_its_own_failure_to_rank_0(rank1: Rank1) -> None:
    assert rank1.watchdog.fail(ZeroDivisionError("bug")) is None
    text = rank1.failures()[0]
    assert text.startswith("rank 1 (node1) failed:\n")
    assert text.endswith("ZeroDivisionError: bug")


def test_a_user_error_is_reported_in_one_line(rank1: Rank1) -> None:
    assert rank1.watchdog.fail(UserError("image 1: unreadable")) is None
    assert rank1.failures()[0] == "rank 1 (node1) failed: image 1: unreadable"


def test_a_stop_is_not_reported(rank1: Rank1) -> None:
    assert rank1.watchdog.fail(Stopped("as requested")) is None
    assert rank1.failures() == []


def test_a_lost_peer_is_the_failure_of_another_rank(rank1: Rank1) -> None:
    failure = Failure(0, "rank 0 (node1) failed: no disk", is_printed=True)
    rank1.detector.blame(failure, time.monotonic(), is_decided=True)
    lost = rank1.watchdog.fail(LOST)
    assert isinstance(lost, RankLost)
    assert str(lost) == failure.text
    assert lost.__cause__ is LOST
    assert not lost.should_print


def test_a_lost_peer_without_a_report_is_the_silent_rank(rank1: Rank1) -> None:
    rank1.detector.receive(heartbeat_of(0), time.monotonic() - 10)
    lost = rank1.watchdog.fail(LOST)
    assert str(lost).startswith("rank 0 (node1) is gone, last seen in reduce of step 5; see logs/rank-0.log")
    assert lost is not None
    assert lost.should_print


def test_a_rank_that_rank_0_does_not_answer_has_not_reached_it(rank1: Rank1) -> None:
    assert not rank1.watchdog.reach(0.01)
    rank1.detector.receive(heartbeat_of(0), time.monotonic())
    assert rank1.watchdog.reach(0.0)
