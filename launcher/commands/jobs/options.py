"""The options of the commands that start trainings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from launcher.errors import UserError, check_at_least_1

Starter = Literal["accelerate", "srun"]

FEWEST_STEPS = 4
TIME = re.compile(r"(\d+-)?\d+(:\d+){0,2}")
SITE_NAME = re.compile(r"[\w.,@+-]+")


@dataclass(frozen=True, kw_only=True)
class TuneOptions:
    search: Path
    """A YAML file: the keys to search, their ranges, the number of trials."""
    folder: Path | None = None
    """Folder of trials, best recipe and charts; a search in it is resumed. Default: `runs/RECIPE-SEARCH`."""
    parallel: int | None = None
    """Trials at a time. Default: as many as the GPUs allow; 1 on a CPU."""
    processes: int = 1
    """Processes of each trial."""
    slurm: str | None = None
    """Run each trial as a SLURM job, with these options of sbatch, in quotes; `--parallel` jobs at a time."""

    def check(self) -> None:
        """Raise UserError when an option is out of range, or two contradict each other."""
        check_at_least_1(parallel=self.parallel, processes=self.processes)
        if self.slurm is not None and self.processes != 1:
            raise UserError(
                "--processes is for trials on this machine; with --slurm, set --gpus-per-node in its options"
            )


@dataclass(frozen=True)
class VerifyOptions:
    steps: int = 20
    """Optimizer steps of each run; the learning rate schedule is that of a training of this length."""
    processes: int | None = None
    """Processes that train. Default: one for each GPU; 1 on a CPU."""
    other_processes: int | None = None
    """Processes that resume after the second kill. Default: another number that the global batch allows."""
    seed: int | None = None
    """Decides the steps to kill at. Default: random; it is printed."""
    keep: Path | None = None
    """New or empty folder that keeps the runs. Default: a temporary one, kept only when something differs."""
    hang_s: float = 900.0
    """Seconds without a new journal record after which a run counts as hung."""

    def check(self) -> None:
        """Raise UserError when an option is out of range."""
        if self.steps < FEWEST_STEPS:
            raise UserError(
                f"--steps {self.steps}: must be at least {FEWEST_STEPS}: for a checkpoint, a kill and steps after it"
            )
        check_at_least_1(processes=self.processes, other_processes=self.other_processes)
        if not self.hang_s > 0:
            raise UserError(f"--hang-s {self.hang_s:g}: must be more than 0")


@dataclass(frozen=True)
class SubmitOptions:
    nodes: int = 1
    """Number of nodes."""
    gpus_per_node: int = 1
    """GPUs of each node, one process each. 0: one CPU process on each node."""
    time: str = "24:00:00"
    """Time limit, as sbatch takes it: minutes, hours:minutes:seconds, days-hours."""
    cpus_per_task: int | None = None
    """CPUs of each node. Default: enough for `data.workers`, or 8 for each process."""
    partition: str | None = None
    """Passed to sbatch."""
    account: str | None = None
    """Passed to sbatch."""
    qos: str | None = None
    """Passed to sbatch."""
    starter: Starter = "accelerate"
    """Starts the processes: `accelerate launch`, once on each node, or `srun`."""
    dry_run: bool = False
    """Print the job and submit nothing."""

    @property
    def processes_per_node(self) -> int:
        return max(self.gpus_per_node, 1)

    @property
    def site(self) -> dict[str, str]:
        """The options that name things of one cluster."""
        names = {"partition": self.partition, "account": self.account, "qos": self.qos}
        return {option: name for option, name in names.items() if name is not None}

    def check(self) -> None:
        """Raise UserError when an option is out of range, or not what sbatch accepts."""
        if self.nodes < 1 or self.gpus_per_node < 0:
            raise UserError(f"--nodes {self.nodes} --gpus-per-node {self.gpus_per_node}: at least 1 node and 0 GPUs")
        if not TIME.fullmatch(self.time):
            raise UserError(
                f"--time {self.time}: write minutes, hours:minutes:seconds or days-hours, for example 12:00:00"
            )
        for option, name in self.site.items():
            if not SITE_NAME.fullmatch(name):
                raise UserError(f"--{option} {name}: is not a name that sbatch accepts")
