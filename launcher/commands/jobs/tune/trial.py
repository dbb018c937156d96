"""One trial: a training in a folder of its own, as processes on this machine's devices, or as a SLURM job."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from launcher.commands.jobs.spawn import SpawnedRanks, environment_for, train_command
from launcher.commands.jobs.submit import Job
from launcher.commands.jobs.tune.search import Values, as_overrides
from launcher.commands.jobs.tune.slurm import SlurmTrial
from launcher.errors import EXIT_RESUMABLE, SpawnedRunError
from launcher.run.folder import FINISHED, read_summary
from launcher.run.history import as_number, find_number
from launcher.run.journal import JournalTail

LOGS = "logs"
"""Folder, in the search's, of what the trials' processes say."""
FOLDER = "trial-{:03d}"
RECIPE_NAME = "recipe.yaml"

State = Literal["runs", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Task:
    """What all trials share. `sign`: 1 where more is better, else -1. `processes`: of each trial."""

    folder: Path
    name: str
    metric: str
    sign: int
    processes: int
    device: str
    parallel: int
    job: Job | None = None
    """What each trial asks of SLURM. None: trials run here."""

    @property
    def recipe_file(self) -> Path:
        """The search's own copy, overrides in it: the user's may be edited while trials run, or wait in a queue."""
        return self.folder / RECIPE_NAME

    def folder_of(self, number: int) -> Path:
        return self.folder / FOLDER.format(number)


@dataclass
class RunningTrial:
    """A trial that runs. `slot`: which share of the machine it has."""

    task: Task
    number: int
    slot: int
    ranks: SpawnedRanks | SlurmTrial
    stop_requested: bool = False
    """Whether it was asked to end early."""
    why: str = ""
    """Its last words, once it has failed."""
    reported: set[int] = field(default_factory=set)
    """Steps whose validation the optimiser has been given."""
    best_score: float = -math.inf
    """Of those validations."""

    def __post_init__(self) -> None:
        self.journal = JournalTail(self.task.folder_of(self.number))

    def look(self) -> State:
        try:
            if not self.ranks.have_ended():
                return "runs"
        except SpawnedRunError as error:
            self.why = str(error)
            self.ranks.kill()
            return "stopped" if error.code == EXIT_RESUMABLE or self.stop_requested else "failed"
        summary = read_summary(self.task.folder_of(self.number))
        if summary.get("status") not in FINISHED or self.score is None:
            self.why = "ended without a validation"
            return "failed"
        return "done"

    @property
    def score(self) -> float | None:
        """Of the best checkpoint; the larger the better."""
        value = find_number(read_summary(self.task.folder_of(self.number)), "best", "value")
        return None if value is None else self.task.sign * value

    @property
    def last_step(self) -> int:
        return int(read_summary(self.task.folder_of(self.number)).get("steps_done", 0))

    def read_new(self) -> dict[int, float]:
        """Step -> best score up to there, of validations that the optimiser has not been given."""
        new = {}
        for record in self.journal.read():
            value = as_number(record.get(self.task.metric)) if record["kind"] == "eval" else None
            is_validation = record.get("split") == "valid" and record.get("weights_step") == record["step"]
            if value is not None and is_validation and record["step"] not in self.reported:
                self.best_score = max(self.best_score, self.task.sign * value)
                new[record["step"]] = self.best_score
        self.reported |= new.keys()
        return new


def start_trial(task: Task, number: int, values: Values, slot: int) -> RunningTrial:
    """Begin the trial, or go on with what there is of it."""
    folder = task.folder_of(number)
    output = task.folder / LOGS / folder.name
    output.parent.mkdir(exist_ok=True)
    mine: Values = {"run.dir": str(folder), "run.name": task.name, "log.wandb.job_type": "tune"}
    overrides = as_overrides({**values, **mine})
    if task.job is not None:
        words = (str(task.recipe_file), *overrides)
        return RunningTrial(task, number, slot, SlurmTrial(task.job, words, folder, output.with_suffix(".job")))
    command = train_command(task.recipe_file, overrides)
    environment = _share(environment_for(task.processes, task.device), task, slot)
    return RunningTrial(task, number, slot, SpawnedRanks(command, task.processes, environment, output))


def _share(environment: Mapping[str, str], task: Task, slot: int) -> dict[str, str]:
    """GPUs, or cores, that other trials at the same time do not use."""
    if task.device == "cuda":
        known = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices: Sequence[str] = known.split(",") if known else [*map(str, range(task.parallel * task.processes))]
        mine = devices[slot * task.processes : (slot + 1) * task.processes]
        return {**environment, "CUDA_VISIBLE_DEVICES": ",".join(mine)}
    threads = max(1, (os.cpu_count() or 1) // (task.parallel * task.processes))
    return {"OMP_NUM_THREADS": str(threads), **environment}
