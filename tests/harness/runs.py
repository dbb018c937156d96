"""Starting the real program, alone or as several processes, and reading what it left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.distributed.world import TORCHRUN
from tests.harness.warm_ranks import WarmRanks

ROOT = Path(__file__).parent.parent.parent
RECIPES = ROOT / "recipes"
DIGITS = RECIPES / "lenet_digits.yaml"

TIMEOUT_S = 240

Record = dict[str, Any]
Process = subprocess.Popen[str] | WarmRanks


@dataclass(frozen=True)
class Ended:
    """A process that has ended. `codes`: of each rank, where no launcher started them."""

    code: int
    out: str
    err: str
    codes: tuple[int, ...] = ()


def command(processes: int = 1, launcher: str = "torchrun", program: Sequence[str] = ("-m", "launcher")) -> list[str]:
    """How a user starts the program as so many CPU processes."""
    if processes == 1 and launcher == "torchrun":
        return [sys.executable, "-m", "launcher"]
    module, number, port = {
        "torchrun": ("torch.distributed.run", "--nproc-per-node", "--master-port"),
        "accelerate": ("accelerate.commands.accelerate_cli", "--num_processes", "--main_process_port"),
    }[launcher]
    mode = {"torchrun": [], "accelerate": ["launch", "--multi_gpu"][: min(processes, 2)]}[launcher]
    start = [sys.executable, "-m", module, *mode, number, str(processes), port, str(free_port())]
    return [*start, *program]


def environment() -> dict[str, str]:
    """The user's own, on the CPU, without credentials; one thread a process, so that sums are always the same."""
    hidden = ("WANDB_", "SLURM_", "ACCELERATE_", *TORCHRUN.values())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    return {**kept, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "NETRC": "/nonexistent"}


def free_port() -> int:
    """One that nobody listens on: the launchers' own default would let two tests meet."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def start(arguments: Sequence[str | Path], cwd: Path, processes: int = 1, faults: list[str] | None = None) -> WarmRanks:
    """The program as so many ranks, without a launcher. `faults`: of tests/multi/faulty.py, one for each rank."""
    return WarmRanks([*map(str, arguments)], cwd, environment(), ranks_of(processes), faults)


def launch(
    arguments: Sequence[str | Path],
    cwd: Path,
    processes: int = 1,
    launcher: str = "torchrun",
    program: Sequence[str] = ("-m", "launcher"),
) -> subprocess.Popen[str]:
    """The real command as a user types it: seconds go by before the program begins."""
    return subprocess.Popen(
        [*command(processes, launcher, program), *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: Process, timeout_s: float = TIMEOUT_S) -> Ended:
    """Wait for the end; a program that hangs is ended with all its processes, and the test fails."""
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun and accelerate launch end their workers when asked, not when killed
        out, err = process.communicate()
        raise AssertionError(f"no end after {timeout_s:g} s:\n{out}\n{err}") from None
    code = process.poll()
    assert code is not None
    return Ended(code, out, err, (process.codes if isinstance(process, WarmRanks) else None) or ())


def run(*arguments: str | Path, cwd: Path, processes: int = 1, launcher: str = "ranks") -> Ended:
    """Run to the end; the caller looks at the exit code. `ranks`: each process by itself, without a launcher."""
    if launcher == "ranks":
        return finish(start(arguments, cwd, processes))
    return finish(launch(arguments, cwd, processes, launcher))


def train(*arguments: str | Path, cwd: Path, processes: int = 1, launcher: str = "ranks") -> Ended:
    """Run to the end, which must be a good one."""
    ended = run(*arguments, cwd=cwd, processes=processes, launcher=launcher)
    assert ended.code == 0, ended.err
    return ended


def ranks_of(processes: int) -> list[dict[str, str]]:
    """What launchers tell each rank."""
    if processes == 1:
        return [{}]
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    size = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    return [{"RANK": str(rank), "LOCAL_RANK": str(rank), **size, **address} for rank in range(processes)]


def stop_after(process: Process, folder: Path, step: int, number: signal.Signals) -> Ended:
    """Send a signal once the journal in `folder` has a train record of `step`."""
    wait_until(lambda: any(r["kind"] == "train" and r["step"] >= step for r in journal(folder)), process)
    process.send_signal(number)
    return finish(process)


def wait_until(is_so: Callable[[], bool], process: Process, timeout_s: float = 90) -> None:
    end = time.monotonic() + timeout_s
    while not is_so():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.02)


def journal(folder: Path) -> list[Record]:
    """All whole records so far."""
    path = folder / "journal.jsonl"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def train_records(folder: Path) -> dict[int, Record]:
    """Step -> its newest train record."""
    return {record["step"]: record for record in journal(folder) if record["kind"] == "train"}


def events(folder: Path, name: str) -> list[Record]:
    return [record for record in journal(folder) if record.get("name") == name]


def summary(folder: Path) -> Record:
    read: Record = json.loads((folder / "summary.json").read_text())
    return read
