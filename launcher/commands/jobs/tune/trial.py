"""A trial that runs: a training in a folder of its own, as processes on this machine's devices, or as a SLURM job."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import Literal

from launcher.commands.jobs.spawn import SpawnedRanks, environment_for, train_command
from launcher.commands.jobs.tune.cores import share_of_cores, starting_on, usable_cores
from launcher.commands.jobs.tune.plan import SearchPlan
from launcher.commands.jobs.tune.search import Values, as_overrides
from launcher.commands.jobs.tune.slurm import SlurmTrial
from launcher.errors import EXIT_RESUMABLE, SpawnedRunError
from launcher.run.folder import FINISHED, read_summary
from launcher.run.history import find_number, read_curve
from launcher.run.journal import JournalTail

State = Literal["running", "done", "stopped", "failed"]


@dataclass
class RunningTrial:
    plan: SearchPlan
    number: int
    slot: int
    """Share of the machine, from 0 to `plan.parallel` - 1."""
    training: SpawnedRanks | SlurmTrial
    stop_requested: bool = False
    """Whether the search requested an early end."""
    error: str = ""
    """Why it failed."""
    reported: set[int] = field(default_factory=set)
    """Steps of the validations that `read_scores` has returned."""
    best_score: float = -math.inf
    """Best of those validations."""

    def __post_init__(self) -> None:
        self._folder = self.plan.folder_of(self.number)
        self._journal = JournalTail(self._folder)

    def poll(self) -> State:
        try:
            if not self.training.has_ended():
                return "running"
        except SpawnedRunError as error:
            self.error = str(error)
            self.training.kill()
            return "stopped" if error.code == EXIT_RESUMABLE or self.stop_requested else "failed"
        if read_summary(self._folder).get("status") not in FINISHED or self.score is None:
            self.error = "ended without a validation"
            return "failed"
        return "done"

    @property
    def score(self) -> float | None:
        """Score of the best checkpoint."""
        value = find_number(read_summary(self._folder), "best", "value")
        return None if value is None else self.plan.sign * value

    @property
    def last_step(self) -> int:
        return int(read_summary(self._folder).get("steps_done", 0))

    def read_scores(self) -> dict[int, float]:
        """Step -> best score up to that step, for the validations since the last call."""
        new: dict[int, float] = {}
        for step, value in read_curve(self._journal.read(), "eval", self.plan.metric, "valid").items():
            if step not in self.reported:  # a trial that resumes validates some steps again
                self.best_score = max(self.best_score, self.plan.sign * value)
                new[step] = self.best_score
        self.reported |= new.keys()
        return new


def start_trial(plan: SearchPlan, number: int, values: Values, slot: int) -> RunningTrial:
    """Start the trial, or resume it."""
    folder = plan.folder_of(number)
    output = plan.folder / "logs" / folder.name
    output.parent.mkdir(exist_ok=True)
    own: Values = {"run.dir": str(folder), "run.name": plan.name, "log.wandb.job_type": "tune"}
    overrides = as_overrides({**values, **own})
    if plan.job is not None:
        arguments = (str(plan.recipe_file), *overrides)
        return RunningTrial(plan, number, slot, SlurmTrial(plan.job, arguments, folder, output.with_suffix(".job")))
    command = train_command(plan.recipe_file, overrides)
    # There may be fewer trials than slots.
    cores = share_of_cores(usable_cores(), slot, min(plan.parallel, plan.search.num_trials))
    with starting_on(cores):
        ranks = SpawnedRanks(command, plan.processes, _slot_environment(plan, slot, len(cores)), output)
    return RunningTrial(plan, number, slot, ranks)


def _slot_environment(plan: SearchPlan, slot: int, num_cores: int) -> dict[str, str]:
    """Environment with GPUs and a number of threads that leave room for the trials in the other slots."""
    environment = environment_for(plan.processes, plan.device)
    threads = str(max(1, num_cores // plan.processes))
    environment["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", threads)
    if plan.device == "cuda":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        devices = visible.split(",") if visible else [str(i) for i in range(plan.parallel * plan.processes)]
        own = devices[slot * plan.processes : (slot + 1) * plan.processes]
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return environment
