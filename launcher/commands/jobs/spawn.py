"""Trainings as processes of their own: started together, followed by their journal, killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from launcher.distributed.comm import ShouldStop
from launcher.distributed.world import SRUN, TORCHRUN
from launcher.errors import SpawnedRunError, Stopped
from launcher.run.journal import JournalTail

POLL_S = 0.002
"""A small network's step takes 5 ms: the kill is to come within a step or two."""

ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


class SpawnedRanks:
    """The ranks of one training on this machine, each with what it says in `output` + `.rank-N.txt`.

    Ranks that are left when the `with` block is left are killed.
    """

    def __init__(self, command: Sequence[str], size: int, environment: Mapping[str, str], output: Path) -> None:
        self._outputs = [output.with_name(f"{output.name}.rank-{rank}.txt") for rank in range(size)]
        self._processes: list[subprocess.Popen[bytes]] = []
        for variables, path in zip(_places(size), self._outputs, strict=True):
            with path.open("ab") as file:
                process = subprocess.Popen(
                    command,
                    env={**environment, **variables},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,  # a group of its own, so that what it starts is killed with it
                )
            self._processes.append(process)

    def __enter__(self) -> SpawnedRanks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        """SIGKILL to every rank and whatever it has started; nothing is asked first."""
        for process in self._processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()

    def ask_to_stop(self) -> None:
        """SIGTERM: they save, and end with exit code 75."""
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)

    def have_ended(self) -> bool:
        """Raise AttemptError with the last words of the first rank that failed."""
        codes = [process.poll() for process in self._processes]
        for rank, code in enumerate(codes):
            if code:
                raise SpawnedRunError(f"rank {rank} ended with exit code {code}: {self._last_line(rank)}", code)
        return all(code == 0 for code in codes)

    def _last_line(self, rank: int) -> str:
        lines = self._outputs[rank].read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "said nothing").removeprefix("launcher: ")


def follow(ranks: SpawnedRanks, folder: Path, hang_s: float, stop: ShouldStop) -> Iterator[int]:
    """The newest step in the journal of this start, again and again until the training has ended well.

    Raise AttemptError when it fails, or writes nothing to its journal for `hang_s` seconds; Stopped when asked to stop.
    """
    # What is there is of an earlier start. A torn last line is cut off when the run resumes.
    journal, step = JournalTail(folder, from_end=True), 0
    since_s = time.monotonic()
    while True:
        has_ended = ranks.have_ended()  # asked first, so that what was written last is read
        records = journal.read()
        if records:
            since_s = time.monotonic()
        step = max((record["step"] for record in records if record["kind"] == "train"), default=step)
        yield step
        if has_ended:
            return
        if stop():
            raise Stopped("stopped while verifying: nothing is proved yet")
        if time.monotonic() - since_s > hang_s:
            after = f"after step {step}" if step else "before its first step"
            raise SpawnedRunError(f"hangs: nothing new in its journal for {hang_s:g} s, {after}")
        time.sleep(POLL_S)


def environment_for(size: int, device: str) -> dict[str, str]:
    """This process's environment, without what a launcher or an allocation has said about ranks."""
    ranks = {*TORCHRUN.values(), *SRUN.values(), *ADDRESS}
    environment = {name: value for name, value in os.environ.items() if name not in ranks}
    if size > 1:
        # As torchrun does, but for the number: the ranks share the cores.
        environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // size)))
    return {**environment, "ACCELERATE_USE_CPU": "true"} if device == "cpu" else environment


def train_command(recipe: Path, overrides: Sequence[str]) -> list[str]:
    return [sys.executable, "-m", "launcher", str(recipe), *overrides]


def _places(size: int) -> list[dict[str, str]]:
    """The variables that torchrun would set for each rank; none for a single process."""
    if size == 1:
        return [{}]
    together = {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": _free_port()}
    places = [{**together, "RANK": rank, "LOCAL_RANK": rank} for rank in range(size)]
    return [{name: str(value) for name, value in place.items()} for place in places]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
