"""A trial as a SLURM job of its own: it waits in the queue, saves and is queued again like any training there."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from launcher.commands.jobs.submit import SBATCH_TIMEOUT_S, Job, render_job, send_job
from launcher.errors import SpawnedRunError, UserError

ASK_S = 5.0
"""Between two questions to SLURM: it has others to answer."""
OPTION = re.compile(r"--([a-z][a-z-]*)=(\S+)")
OF_JOB = {"gpus-per-node": int, "cpus-per-task": int, "time": str}
"""Options that the job's text has a place for; the others are handed on."""


def parse_options(text: str) -> Job:
    """`--partition=gpu --time=4:00:00 --gpus-per-node=2` -> a job on one node.

    Raise UserError for what cannot be chosen, or is no option.
    """
    own: dict[str, int | str] = {}
    others: list[str] = []
    for word in shlex.split(text):
        match = OPTION.fullmatch(word)
        if match is None:
            raise UserError(f"--slurm: '{word}' is no option of sbatch as it is read here; write --name=value")
        name, value = match.groups()
        if name in ("nodes", "array", "output", "signal"):
            raise UserError(f"--slurm: --{name} is not for you to choose: a trial is one job on one node")
        if name not in OF_JOB:
            others.append(word)
        elif OF_JOB[name] is int and not value.isdecimal():
            raise UserError(f"--slurm: --{name}={value}: must be a whole number")
        else:
            own[name.replace("-", "_")] = OF_JOB[name](value)
    return replace(Job(), **own, options=tuple(others))  # type: ignore[arg-type]


class SlurmTrial:
    """The job in `note`, a file with its number, if it is queued, runs or is done; else a new one.

    `run`: the trial's folder.
    """

    def __init__(self, job: Job, words: tuple[str, ...], run: Path, note: Path) -> None:
        self._run, self._asked_s = run, 0.0
        self.number = note.read_text().strip() if note.exists() else ""
        if not self.number or not (_is_queued(self.number) or self._exit_code() == 0):
            (run / "logs/exit-code").unlink(missing_ok=True)
            self.number = send_job(render_job(replace(job, name=run.parent.name, words=words)))
            note.write_text(self.number)

    def have_ended(self) -> bool:
        """Raise AttemptError with the exit code when it has failed, or was stopped."""
        if time.monotonic() - self._asked_s < ASK_S:
            return False
        queued = _is_queued(self.number)
        self._asked_s = time.monotonic()
        if queued:
            return False
        code = self._exit_code()
        if code:
            raise SpawnedRunError(f"job {self.number} ended with exit code {code}; see {self._run}/logs", code)
        return True

    def ask_to_stop(self) -> None:
        """It saves, ends, and is not queued again."""
        subprocess.run(["scancel", self.number], capture_output=True, timeout=SBATCH_TIMEOUT_S, check=False)
        self._asked_s = 0.0

    def kill(self) -> None:
        """The same: SLURM kills what does not end."""
        self.ask_to_stop()

    def _exit_code(self) -> int:
        """1 where the job came to no end of its own."""
        try:
            return int((self._run / "logs/exit-code").read_text())
        except (OSError, ValueError):
            return 1


def _is_queued(number: str) -> bool:
    """Also where SLURM does not answer: what it has not said is not known."""
    words = ["squeue", "--noheader", f"--jobs={number}", "--format=%T"]
    try:
        asked = subprocess.run(words, capture_output=True, text=True, timeout=SBATCH_TIMEOUT_S)
    except FileNotFoundError:
        raise UserError("squeue is not here: search on a machine of the cluster, or leave --slurm out") from None
    except subprocess.TimeoutExpired:
        return True
    return bool(asked.stdout.strip()) if asked.returncode == 0 else "Invalid job id" not in asked.stderr
