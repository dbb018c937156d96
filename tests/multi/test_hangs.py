"""A rank that hangs, is stopped, killed or fails: who and where, on the console; stacks in the logs; everyone ends."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.runs import DIGITS, environment, events, finish, launch, ranks_of, train_records, wait_until
from tests.harness.warm_ranks import WarmRanks

PROGRAM = Path(__file__).parent / "faulty.py"
HOST = re.escape(socket.gethostname())
END_S = 60


def settings(digits: Path) -> list[str]:
    return [
        *(str(DIGITS), f"data.dir={digits}", "data.cache=none", "data.workers=1", "train.epochs=60", "run.dir=run"),
        *("log.wandb.mode=disabled", "log.every=1st", "strategy.hang_timeout_s=3"),
    ]


@dataclass
class TwoRanks:
    """Two plain processes, as `srun` starts them; each with a console of its own."""

    cwd: Path
    ranks: list[WarmRanks]

    def wait_for_steps(self) -> None:
        wait_until(lambda: len(train_records(self.cwd / "run")) > 3, self.ranks[0])

    def log(self, rank: int) -> str:
        return (self.cwd / "run" / "logs" / f"rank-{rank}.log").read_text()


Begin = Callable[..., TwoRanks]
"""(fault, rank) -> both, with that fault on that rank."""


@pytest.fixture
def begin(tmp_path: Path, digits: Path) -> Iterator[Begin]:
    ranks: list[WarmRanks] = []

    def start_both(fault: str = "none", rank: int = 0) -> TwoRanks:
        for number, variables in enumerate(ranks_of(2)):
            faults = [fault if number == rank else "none"]
            ranks.append(WarmRanks(settings(digits), tmp_path, environment(), [variables], faults))
        return TwoRanks(tmp_path, ranks)

    yield start_both
    for rank in ranks:
        rank.kill()


def lines_of(text: str) -> list[str]:
    """What the program itself has printed; not its launcher."""
    return [line for line in text.splitlines() if line.startswith("launcher: ")]


def check_hang_in_data(folder: Path, printed: str, rank: int) -> None:
    """One line, the same in journal and logs, and the stacks of both."""
    [line] = lines_of(printed)
    where = r"train-00000\.tar: image \d+"
    one = rf"rank {rank} \({HOST}\) has been in data of step \d+ for \d+ s, reading {where}"
    assert re.fullmatch(rf"launcher: {one}; rank {1 - rank} waits in reduce of step \d+", line)
    [event] = events(folder, "hang")
    assert f"launcher: {event['message']}" == line
    for each, inside in ((rank, "in slow"), (1 - rank, "in train_step")):
        log = (folder / "logs" / f"rank-{each}.log").read_text()
        assert event["message"] in log
        assert inside in log


def test_a_rank_that_hangs_in_data_is_named(tmp_path: Path, digits: Path) -> None:
    ended = finish(launch(["data", "1", *settings(digits)], tmp_path, 2, program=[str(PROGRAM)]))
    assert ended.code == 1
    check_hang_in_data(tmp_path / "run", ended.err, rank=1)


def test_rank_0_itself_may_hang(begin: Begin) -> None:
    two = begin("data", 0)
    assert [rank.wait(END_S) for rank in two.ranks] == [1, 1]
    check_hang_in_data(two.cwd / "run", two.ranks[0].err, rank=0)
    assert two.ranks[1].err == ""


def test_a_stopped_rank_is_not_heard_of(begin: Begin) -> None:
    two = begin()
    two.wait_for_steps()
    two.ranks[1].send_signal(signal.SIGSTOP)
    assert two.ranks[0].wait(END_S) == 1
    [line] = lines_of(two.ranks[0].err)
    assert re.fullmatch(
        rf"launcher: rank 1 \({HOST}\) has been silent for \d+ s, last seen in \w+ of step \d+.*; "
        r"rank 0 waits in reduce of step \d+",
        line,
    )
    assert "in _fit_stage" in two.log(0)
    two.ranks[1].send_signal(signal.SIGCONT)
    assert two.ranks[1].wait(END_S) == 1
    assert "Current thread" in two.log(1)
    assert lines_of(two.ranks[1].err) == []


def test_the_first_traceback_is_the_last_word(tmp_path: Path, digits: Path) -> None:
    """Rank 0 fails after rank 1, and in words of its own: these are for its log."""
    words = ["raise,raise-later", "1,0", *settings(digits)]
    ended = finish(launch(words, tmp_path, 2, "accelerate", [str(PROGRAM)]))
    assert ended.code == 1
    [line] = lines_of(ended.err)
    assert line == "launcher: rank 1 failed:"
    ours = ended.err.partition(line)[2]
    assert "ArithmeticError: broken on purpose" in ours
    assert "LookupError" not in ended.err
    assert "LookupError: broken as well" in (tmp_path / "run" / "logs" / "rank-0.log").read_text()
    [event] = events(tmp_path / "run", "error")
    assert f"rank 1 ({socket.gethostname()}) failed:" in event["message"]
