"""Real processes, small programs: followed, killed with what they have started, and heard when they fail."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.commands.jobs.spawn import SpawnedRanks, environment_for, watch
from launcher.distributed.signals import SIGNALS, StopRequest
from launcher.errors import SpawnedRunError, Stopped

TRAINING = """
import os, sys, time
folder, steps, rank = sys.argv[1], int(sys.argv[2]), os.environ.get("RANK", "0")
for step in range(1, steps + 1):
    if rank == "0":
        with open(f"{folder}/journal.jsonl", "a") as journal:
            journal.write('{"kind": "train", "step": %d}\\n{"kind": "eval", "step": 99}\\n' % step)
    time.sleep(0.05)
"""
HANGS = "import time; time.sleep(600)"


@pytest.fixture
def stop() -> Iterator[StopRequest]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield StopRequest()
    for number, handler in before.items():
        signal.signal(number, handler)


def start(folder: Path, program: str, *words: str, size: int = 1) -> SpawnedRanks:
    return SpawnedRanks([sys.executable, "-c", program, *words], size, dict(os.environ), folder / "run")


def test_steps_are_followed_to_the_end(tmp_path: Path, stop: StopRequest) -> None:
    with start(tmp_path, TRAINING, str(tmp_path), "6", size=2) as ranks:
        seen = list(watch(ranks, tmp_path, 30, stop))
    assert seen == sorted(seen)
    assert sorted(set(seen)) == [0, 1, 2, 3, 4, 5, 6]


def test_a_second_start_is_followed_from_where_it_begins(tmp_path: Path, stop: StopRequest) -> None:
    (tmp_path / "journal.jsonl").write_text('{"kind": "train", "step": 50}\n{"kind": "tra')
    with start(tmp_path, "import sys; sys.exit(0)") as ranks:
        assert set(watch(ranks, tmp_path, 30, stop)) == {0}


def test_a_kill_reaches_every_rank_and_its_children(tmp_path: Path) -> None:
    program = (
        "import subprocess, sys, os\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"open({str(tmp_path)!r} + '/' + os.environ['RANK'], 'w').write(f'{{child.pid}} {{os.getpid()}}.')\n"
        "child.wait()"
    )
    files = [tmp_path / "0", tmp_path / "1"]
    with start(tmp_path, program, size=2):
        wait_for(lambda: all(file.exists() and file.read_text().endswith(".") for file in files))
        pids = [int(word.rstrip(".")) for file in files for word in file.read_text().split()]
        assert all(is_running(pid) for pid in pids)
    wait_for(lambda: not any(is_running(pid) for pid in pids))


def is_running(pid: int) -> bool:
    """A killed child of a killed parent may be left as a zombie, which is not running."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_for(is_so: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def test_the_first_failing_rank_is_heard_and_the_others_are_ended(tmp_path: Path, stop: StopRequest) -> None:
    program = f"import os, sys\nif os.environ['RANK'] == '1': sys.exit('launcher: no such thing')\n{HANGS}"
    started_s = time.monotonic()
    with (
        start(tmp_path, program, size=2) as ranks,
        pytest.raises(SpawnedRunError, match=r"^rank 1 ended with exit code 1: no such thing$") as raised,
    ):
        list(watch(ranks, tmp_path, 300, stop))
    assert raised.value.code == 1
    assert time.monotonic() - started_s < 30


def test_a_run_that_writes_nothing_hangs(tmp_path: Path, stop: StopRequest) -> None:
    with (
        start(tmp_path, TRAINING + HANGS, str(tmp_path), "3") as ranks,
        pytest.raises(SpawnedRunError, match=r"hangs: nothing new in its journal for 1\.5 s, after step 3"),
    ):
        list(watch(ranks, tmp_path, 1.5, stop))
    with (
        start(tmp_path, HANGS) as ranks,
        pytest.raises(SpawnedRunError, match=r"for 0\.2 s, before its first step"),
    ):
        list(watch(ranks, tmp_path, 0.2, stop))


def test_asked_to_stop_it_stops(tmp_path: Path, stop: StopRequest) -> None:
    with start(tmp_path, HANGS) as ranks:
        seen = watch(ranks, tmp_path, 300, stop)
        assert next(seen) == 0
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            next(seen)


def test_ranks_are_told_who_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: StopRequest) -> None:
    """And nothing of what an allocation around the verb has said."""
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    monkeypatch.setenv("MASTER_PORT", "1")
    program = (
        "import os; from launcher.distributed.world import read_world\n"
        "print(read_world(os.environ).rank, read_world(os.environ).size, os.environ.get('MASTER_PORT', 'none'))"
    )
    for size in (1, 2):
        with SpawnedRanks(
            [sys.executable, "-c", program], size, environment_for(size, "cpu"), tmp_path / f"{size}"
        ) as ranks:
            list(watch(ranks, tmp_path, 60, stop))
    said = [(tmp_path / name).read_text().split() for name in ("1.rank-0.txt", "2.rank-0.txt", "2.rank-1.txt")]
    assert said[0] == ["0", "1", "none"]
    assert [words[:2] for words in said[1:]] == [["0", "2"], ["1", "2"]]
    assert said[1][2] == said[2][2] != "1"
    assert environment_for(1, "cpu")["ACCELERATE_USE_CPU"] == "true"
