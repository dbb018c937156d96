"""A trial as a SLURM job: it queues, saves and requeues like any training there."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from launcher.commands.jobs.sbatch import SBATCH_TIMEOUT_S, SlurmJob, render_job, send_job
from launcher.errors import SpawnedRunError, UserError

POLL_S = 5.0
"""Seconds between two queries, as SLURM serves many users."""
OPTION = re.compile(r"--([a-z][a-z-]*)=(\S+)")
JOB_OPTIONS = {"gpus-per-node": int, "cpus-per-task": int, "time": str}
"""Options with a field in SlurmJob, and their types; all others are passed on."""
FIXED = ("nodes", "array", "output", "signal")


def parse_options(text: str) -> SlurmJob:
    """`--partition=gpu --time=4:00:00 --gpus-per-node=2` -> a job on one node. Raise UserError for a wrong option."""
    fields: dict[str, int | str] = {}
    others: list[str] = []
    for word in shlex.split(text):
        match = OPTION.fullmatch(word)
        if match is None:
            raise UserError(f"--slurm: '{word}' is not an option; write --name=value")
        name, value = match.groups()
        if name in FIXED:
            raise UserError(f"--slurm: --{name} cannot be set: a trial is one job on one node")
        if name not in JOB_OPTIONS:
            others.append(word)
        elif JOB_OPTIONS[name] is int and not value.isdecimal():
            raise UserError(f"--slurm: --{name}={value}: must be a whole number")
        else:
            fields[name.replace("-", "_")] = JOB_OPTIONS[name](value)
    return replace(SlurmJob(), **fields, options=tuple(others))  # type: ignore[arg-type]


class SlurmTrial:
    """The job named in `job_file` if it is queued, runs or is done; else a new one. `run`: the trial's folder."""

    def __init__(self, job: SlurmJob, arguments: tuple[str, ...], run: Path, job_file: Path) -> None:
        self._run, self._polled_s = run, 0.0
        self.job_id = job_file.read_text().strip() if job_file.exists() else ""
        if not self.job_id or not (_is_queued(self.job_id) or self._exit_code() == 0):
            (run / "logs/exit-code").unlink(missing_ok=True)
            self.job_id = send_job(render_job(replace(job, name=run.parent.name, arguments=arguments)))
            job_file.write_text(self.job_id)

    def has_ended(self) -> bool:
        """Whether it is done. Raise SpawnedRunError with the exit code when it has failed, or was stopped."""
        if time.monotonic() - self._polled_s < POLL_S:
            return False
        is_queued = _is_queued(self.job_id)
        self._polled_s = time.monotonic()
        if is_queued:
            return False
        code = self._exit_code()
        if code:
            raise SpawnedRunError(f"job {self.job_id} ended with exit code {code}; see {self._run}/logs", code)
        return True

    def request_stop(self) -> None:
        """Cancel the job: it saves, ends, and is not requeued."""
        subprocess.run(["scancel", self.job_id], capture_output=True, timeout=SBATCH_TIMEOUT_S, check=False)
        self._polled_s = 0.0

    kill = request_stop  # SLURM kills a cancelled job that does not end

    def _exit_code(self) -> int:
        """1 where the job left none."""
        try:
            return int((self._run / "logs/exit-code").read_text())
        except (OSError, ValueError):
            return 1


def _is_queued(job_id: str) -> bool:
    """Whether the job waits or runs. True also when SLURM does not answer."""
    command = ["squeue", "--noheader", f"--jobs={job_id}", "--format=%T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SBATCH_TIMEOUT_S)
    except FileNotFoundError:
        raise UserError("squeue is not installed here: search on a node of the cluster, or leave out --slurm") from None
    except subprocess.TimeoutExpired:
        return True
    return bool(answer.stdout.strip()) if answer.returncode == 0 else "Invalid job id" not in answer.stderr
