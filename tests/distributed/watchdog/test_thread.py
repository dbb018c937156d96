"""Real processes, a real channel, without torch: quick enough for every fault and both of its sides."""

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

PROGRAM = Path(__file__).parent / "beating.py"


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
        """What each has said, and all with exit code 1."""
        said = [self.processes[rank].communicate(timeout=30)[1] for rank in ranks]
        assert [self.processes[rank].returncode for rank in ranks] == [1] * len(ranks), said
        return said

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


def test_who_hangs_and_who_waits(processes: Processes) -> None:
    processes.start("wait", "wait", "wait", "data")
    said = processes.end(0, 1, 2, 3)
    line = "rank 3 (node2) has been in data of step 812 for 1 s, reading train-00042.tar: image 17; 3 ranks wait in reduce of step 812"
    assert said == [f"launcher: {line}\n", "", "", ""]
    for rank, stack in enumerate(["in wait", "in wait", "in wait", "in hang_in_data"]):
        assert line in processes.log(rank)
        assert stack in processes.log(rank)


def test_rank_0_tells_of_itself(processes: Processes) -> None:
    processes.start("data", "wait")
    said = processes.end(0, 1)
    assert said[0].startswith(
        "launcher: rank 0 (node1) has been in data of step 812 for 1 s, reading train-00042.tar: image 17; rank 1 waits"
    )
    assert said[1] == ""
    assert "in hang_in_data" in processes.log(0)


def test_a_single_process_tells_of_itself(processes: Processes) -> None:
    processes.start("data")
    assert processes.end(0) == [
        "launcher: rank 0 (node1) has been in data of step 812 for 1 s, reading train-00042.tar: image 17\n"
    ]
    assert "in hang_in_data" in processes.log(0)


def test_when_all_wait_nobody_is_to_blame(processes: Processes) -> None:
    processes.start("wait", "wait")
    said = processes.end(0, 1)
    words = "launcher: 2 ranks wait in reduce of step 812; no rank has made progress for 1 s, and all wait\n"
    assert said == [words, ""]


def test_a_stopped_rank(processes: Processes) -> None:
    processes.start("turn", "turn")
    processes.wait_for("ready")
    time.sleep(0.3)
    processes.processes[1].send_signal(signal.SIGSTOP)
    [said] = processes.end(0)
    words = r"launcher: rank 1 \(node1\) has not been heard from for [12] s; it was last in prepare of step 0; rank 0 waits in prepare of"
    assert re.match(words, said)
    processes.processes[1].send_signal(signal.SIGCONT)
    assert processes.end(1) == [""]
    assert "in turn" in processes.log(1)


def test_rank_0_stopped(processes: Processes) -> None:
    """The next one speaks; the third is on another node, where its own would have to."""
    processes.start("turn", "turn", "turn")
    processes.wait_for("ready")
    time.sleep(0.3)
    processes.processes[0].send_signal(signal.SIGSTOP)
    said = processes.end(1, 2)
    assert re.match(
        r"launcher: rank 0 \(node1\) has not been heard from for 1 s; it was last in prepare of step 0", said[0]
    )
    assert said[1] == ""
    processes.processes[0].send_signal(signal.SIGCONT)
    processes.end(0)
    assert "in turn" in processes.log(0)


def test_python_s_lock_kept_for_good(processes: Processes) -> None:
    processes.start("wait", "lock")
    [said] = processes.end(0)
    assert said.startswith(
        "launcher: rank 1 (node1) has not been heard from for 1 s; it was last in forward of step 812"
    )
    until_s = time.monotonic() + 5
    while "in keep_the_lock" not in processes.log(1):
        assert time.monotonic() < until_s
        time.sleep(0.05)


@pytest.mark.parametrize(("killed", "left", "speaks"), [(2, (0, 1), 0), (0, (1, 2), 1)])
def test_a_killed_rank_is_named_to_those_that_it_failed(
    processes: Processes, killed: int, left: tuple[int, int], speaks: int
) -> None:
    processes.start(*("wait" if rank == killed else "lost" for rank in range(3)))
    processes.wait_for("ready")
    time.sleep(0.3)
    processes.processes[killed].kill()
    (processes.folder / "killed").touch()
    said = dict(zip(left, processes.end(*left), strict=True))
    words = said.pop(speaks)
    assert re.match(rf"lost: rank {killed} \(node[12]\) is gone; it was last in \w+ of step \d+; see logs/rank-", words)
    assert list(said.values()) == [""]


def test_a_rank_that_fails_says_so_itself_and_ends_the_rest(processes: Processes) -> None:
    """Rank 0 is on another node: its console hears of it too. Nobody waits for a timeout of the training's exchange."""
    processes.start("wait", "wait", "fail")
    said = processes.end(0, 1, 2)
    assert said[0].startswith("launcher: rank 2 (node2) failed:\nTraceback")
    assert said[0].endswith("ArithmeticError: broken on purpose\n")
    assert said[1:] == ["", "own: ArithmeticError\n"]


def test_who_moves_or_may_take_long_is_left_alone(processes: Processes) -> None:
    processes.start("move", "prepare")
    for process in processes.processes:
        assert process.communicate(timeout=30)[1] == ""
        assert process.returncode == 0
