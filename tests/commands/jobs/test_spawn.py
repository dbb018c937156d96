"""Real processes with small programs: started, followed by their journal, stopped, killed with their children."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from launcher.commands.jobs.spawn import SpawnedRanks, check_single_process, environment_for, follow
from launcher.distributed.comm import never
from launcher.errors import SpawnedRunError, Stopped, UserError
from launcher.run.journal import JOURNAL_NAME, JournalTail

TRAINING = """
import json, os, sys
folder, steps = sys.argv[1], int(sys.argv[2])
record = {"epoch": 1, "time_s": 1.0}
for step in range(1, steps + 1) if os.environ.get("RANK", "0") == "0" else ():
    with open(f"{folder}/journal.jsonl", "a") as journal:
        print(json.dumps({"kind": "train", "step": step, **record}), file=journal)
        print(json.dumps({"kind": "eval", "step": 99, **record}), file=journal)
"""
HANGS = "import time; time.sleep(600)"
DEADLINE_S = 120
"""For what happens at once, on a machine that does much else."""


def start(folder: Path, program: str, *words: str, size: int = 1) -> SpawnedRanks:
    command = [sys.executable, "-c", program, *words]
    return SpawnedRanks(command, size, environment_for(size, "cpu"), folder / "run")


def write_steps(folder: Path, *steps: int, kind: str = "train") -> None:
    with (folder / JOURNAL_NAME).open("a") as journal:
        for step in steps:
            print(json.dumps({"kind": kind, "step": step, "epoch": 1, "time_s": 1.0}), file=journal)


def journal_end(folder: Path) -> JournalTail:
    return JournalTail(folder, from_end=True)


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether the process runs; the killed child of a killed parent may stay as a zombie, which does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_follow_never_falls_and_ends_at_the_last_step(tmp_path: Path) -> None:
    journal = journal_end(tmp_path)
    with start(tmp_path, TRAINING, str(tmp_path), "6", size=2) as ranks:
        seen = list(follow(ranks, journal, DEADLINE_S, never))
    assert seen == sorted(seen)
    assert seen[-1] == 6


def test_follow_yields_the_newest_step(tmp_path: Path) -> None:
    with start(tmp_path, HANGS) as ranks:
        steps = follow(ranks, journal_end(tmp_path), DEADLINE_S, never)
        seen = [next(steps), next(steps)]
        for written in ((1,), (2, 3, 4), ()):
            write_steps(tmp_path, *written)
            write_steps(tmp_path, 99, kind="eval")
            seen.append(next(steps))
    assert seen == [0, 0, 1, 4, 4]


def test_follow_ignores_the_records_of_an_earlier_start(tmp_path: Path) -> None:
    write_steps(tmp_path, 50)
    with (tmp_path / JOURNAL_NAME).open("a") as journal:
        journal.write('{"kind": "tra')
    tail = journal_end(tmp_path)
    with start(tmp_path, "pass") as ranks:
        assert set(follow(ranks, tail, DEADLINE_S, never)) == {0}


def test_kill_reaches_every_rank_and_its_children(tmp_path: Path) -> None:
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


def test_request_stop_sends_sigterm_to_every_rank(tmp_path: Path) -> None:
    """The default action is set, as the caller of the tests may have ignored the signal."""
    program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_DFL); print(end='.', flush=True)\n"
    outputs = [tmp_path / f"run.rank-{rank}.txt" for rank in (0, 1)]
    with start(tmp_path, program + "time.sleep(600)", size=2) as ranks:
        wait_for(lambda: all(output.read_text() == "." for output in outputs))
        ranks.request_stop()
        assert [process.wait(DEADLINE_S) for process in ranks._processes] == [-signal.SIGTERM] * 2


def test_first_failed_rank_is_reported_and_the_others_end(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, sys, time\n"
        f"pid = pathlib.Path({str(tmp_path / 'pid')!r})\n"
        "if os.environ['RANK'] == '0': pid.with_name('draft').write_text(str(os.getpid())); "
        "pid.with_name('draft').rename(pid); time.sleep(600)\n"
        "while not pid.exists(): time.sleep(0.02)\n"
        "sys.exit('launcher: no such thing')"
    )
    with (
        start(tmp_path, program, size=2) as ranks,
        pytest.raises(SpawnedRunError, match=r"^rank 1 ended with exit code 1: no such thing$") as raised,
    ):
        list(follow(ranks, journal_end(tmp_path), 10 * DEADLINE_S, never))
    assert raised.value.code == 1
    assert not is_running(int((tmp_path / "pid").read_text()))


def test_rank_without_output_is_reported(tmp_path: Path) -> None:
    with (
        start(tmp_path, "raise SystemExit(3)") as ranks,
        pytest.raises(SpawnedRunError, match="exit code 3: no output"),
    ):
        list(follow(ranks, journal_end(tmp_path), DEADLINE_S, never))


@pytest.mark.parametrize(("steps", "position"), [((1, 2, 3), "after step 3"), ((), "before its first step")])
def test_run_without_new_records_hangs(tmp_path: Path, steps: tuple[int, ...], position: str) -> None:
    journal = journal_end(tmp_path)
    write_steps(tmp_path, *steps)
    with (
        start(tmp_path, HANGS) as ranks,
        pytest.raises(SpawnedRunError, match=rf"^hangs: no journal record for 0\.2 s, {position}$"),
    ):
        list(follow(ranks, journal, 0.2, never))


def test_follow_stops_on_request(tmp_path: Path) -> None:
    requests: list[str] = []
    with start(tmp_path, HANGS) as ranks:
        steps = follow(ranks, journal_end(tmp_path), DEADLINE_S, lambda: bool(requests))
        assert next(steps) == 0
        requests.append("stop")
        with pytest.raises(Stopped, match=r"^stopped while verifying; the same command verifies again$"):
            next(steps)


def test_ranks_get_their_own_variables_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of a launcher or an allocation around the command."""
    for name, value in (("SLURM_PROCID", "0"), ("SLURM_STEP_NUM_TASKS", "1"), ("MASTER_PORT", "1"), ("RANK", "7")):
        monkeypatch.setenv(name, value)
    program = (
        "import os; from launcher.distributed.world import read_world\n"
        "print(read_world(os.environ).rank, read_world(os.environ).size, os.environ.get('MASTER_PORT', 'none'))"
    )
    for size in (1, 2):
        command = [sys.executable, "-c", program]
        with SpawnedRanks(command, size, environment_for(size, "cpu"), tmp_path / f"{size}") as ranks:
            list(follow(ranks, journal_end(tmp_path), DEADLINE_S, never))
    printed = [(tmp_path / name).read_text().split() for name in ("1.rank-0.txt", "2.rank-0.txt", "2.rank-1.txt")]
    assert printed[0] == ["0", "1", "none"]
    assert [words[:2] for words in printed[1:]] == [["0", "2"], ["1", "2"]]
    assert printed[1][2] == printed[2][2] != "1"
    assert environment_for(1, "cpu")["ACCELERATE_USE_CPU"] == "true"


def test_command_started_as_one_of_several_ranks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_single_process("tune RECIPE")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"^tune starts its processes itself: launcher tune RECIPE --processes N$"):
        check_single_process("tune RECIPE")
