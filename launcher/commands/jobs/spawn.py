"""Trainings as processes of their own: their ranks started together, followed by the journal, stopped, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from launcher.distributed.comm import ShouldStop
from launcher.distributed.world import SRUN, TORCHRUN, read_world
from launcher.errors import SpawnedRunError, Stopped, UserError
from launcher.run.journal import JournalTail

POLL_S = 0.002
"""A step of a small network takes 5 ms, and a kill has to come within a step or two."""

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class SpawnedRanks:
    """The ranks of one training on this machine. Rank N writes its output to `output` + `.rank-N.txt`.

    Leaving the `with` block kills the ranks that still run.
    """

    def __init__(self, command: Sequence[str], size: int, environment: Mapping[str, str], output: Path) -> None:
        self._outputs = [output.with_name(f"{output.name}.rank-{rank}.txt") for rank in range(size)]
        self._processes: list[subprocess.Popen[bytes]] = []
        for variables, path in zip(_rank_variables(size), self._outputs, strict=True):
            with path.open("ab") as file:
                process = subprocess.Popen(
                    command,
                    env={**environment, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a process group of its own, so that a kill reaches its children
                )
            self._processes.append(process)

    def __enter__(self) -> SpawnedRanks:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL every rank and its children."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def request_stop(self) -> None:
        """SIGTERM: the ranks save, and end with exit code 75."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def has_ended(self) -> bool:
        """Whether all ranks are done. Raise SpawnedRunError with the last line of the first rank that failed."""
        codes = [process.poll() for process in self._processes]
        for rank, code in enumerate(codes):
            if code:
                lines = self._outputs[rank].read_text(errors="replace").split("\n")
                last = next((line for line in reversed(lines) if line.strip()), "no output").removeprefix("launcher: ")
                raise SpawnedRunError(f"rank {rank} ended with exit code {code}: {last}", code)
        return all(code == 0 for code in codes)


def follow(ranks: SpawnedRanks, journal: JournalTail, hang_s: float, stop: ShouldStop) -> Iterator[int]:
    """Yield the newest step again and again, 0 before the first, until the training is done; the last step comes last.

    `journal`: opened at its end before the ranks were started, so that it has their records and no older ones.
    Raise SpawnedRunError when the training fails, or writes nothing to its journal for `hang_s` seconds; Stopped when
    `stop` turns true.
    """
    step, last_record_s = 0, time.monotonic()
    while True:
        has_ended = ranks.has_ended()  # before reading, so that the last records are read, too
        records = journal.read()
        if records:
            last_record_s = time.monotonic()
        step = max([step, *(record["step"] for record in records if record["kind"] == "train")])
        yield step
        if has_ended:
            return
        if stop():
            raise Stopped("stopped while verifying; the same command verifies again")
        if time.monotonic() - last_record_s > hang_s:
            position = f"after step {step}" if step else "before its first step"
            raise SpawnedRunError(f"hangs: no journal record for {hang_s:g} s, {position}")
        time.sleep(POLL_S)


def check_single_process(usage: str) -> None:
    """Raise UserError when a launcher started this command as one of several ranks. `usage`: the command alone."""
    if read_world(os.environ).size > 1:
        raise UserError(f"{usage.split()[0]} starts its processes itself: launcher {usage} --processes N")


def environment_for(size: int, device: str) -> dict[str, str]:
    """This process's environment without the variables of launchers and SLURM about ranks."""
    ranks = {*TORCHRUN.values(), *SRUN.values(), *ADDRESS}
    environment = {name: value for name, value in os.environ.items() if name not in ranks}
    if size > 1:
        # torchrun sets 1; here the ranks share the cores.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
    return {**environment, "ACCELERATE_USE_CPU": "true"} if device == "cpu" else environment


def train_command(recipe: Path, overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "launcher", str(recipe), *overrides]


def _rank_variables(size: int) -> list[dict[str, str]]:
    """The variables that torchrun would set for each rank; none for a single process."""
    if size == 1:
        return [{}]
    with socket.socket() as listener:  # finds a free port
        listener.bind(("127.0.0.1", 0))
        address, port = listener.getsockname()
    world = {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
    return [{**world, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(size)]
