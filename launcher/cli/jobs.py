"""Verbs that start trainings of their own: many, some to be killed, or one on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from launcher.recipe.parse import load_recipe


def tune(
    recipe: Path,
    /,
    *overrides: str,
    search: Path,
    folder: Path | None = None,
    parallel: int | None = None,
    processes: int = 1,
    slurm: Annotated[str | None, Parameter(allow_leading_hyphen=True)] = None,
) -> int:
    """Search for better values of a recipe's keys: many trainings, the next where the last promise most.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change in every trial, as `key.path=value`.
    search
        A YAML file: which keys, between which values, how many trials.
    folder
        For the trials, the best recipe and the pictures. Left out: `runs/RECIPE-SEARCH`. What is there is gone on with.
    parallel
        How many trials at a time. Left out: as many as there are GPUs for; 1 on a CPU.
    processes
        How many processes train each trial.
    slurm
        Options of sbatch, in quotes: each trial is a job of its own, `--parallel` of them in the queue at a time.
    """
    from launcher.commands.jobs.tune.main import Options
    from launcher.commands.jobs.tune.main import tune as tune_recipe

    return tune_recipe(recipe, overrides, Options(search, folder, parallel, processes, slurm))


def verify_resume(
    recipe: Path,
    /,
    *overrides: str,
    steps: int = 20,
    processes: int | None = None,
    other_processes: int | None = None,
    seed: int | None = None,
    keep: Path | None = None,
    hang_s: float = 900.0,
) -> int:
    """Prove that this recipe, killed and gone on with, trains as if never interrupted: a few steps, in its own folder.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    steps
        How many optimizer steps each run has; the learning rate's schedule is that of a training of this length.
    processes
        How many processes train. Left out: 1 on a CPU, one for each GPU.
    other_processes
        How many go on after the second kill. Left out: another number that the global batch allows.
    seed
        Decides the steps to kill at. Left out: drawn, and said.
    keep
        A new or empty folder for the runs, which stay there. Left out: a temporary one, kept when something differs.
    hang_s
        A run that writes nothing to its journal for so many seconds is taken to hang.
    """
    from launcher.commands.jobs.verify_resume.main import Options, verify

    return verify(recipe, overrides, Options(steps, processes, other_processes, seed, keep, hang_s))


def submit(
    recipe: Path,
    /,
    *overrides: str,
    nodes: int = 1,
    gpus_per_node: int = 1,
    time: str = "24:00:00",
    cpus_per_task: int | None = None,
    partition: str | None = None,
    account: str | None = None,
    qos: str | None = None,
    starter: Literal["accelerate", "srun"] = "accelerate",
    dry_run: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Send the training to SLURM. It saves and queues itself again before the time limit and when it is preempted.

    Parameters
    ----------
    recipe
        A YAML file.
    overrides
        Values to change, as `key.path=value`.
    nodes
        How many machines.
    gpus_per_node
        GPUs of each, with a process for every one. 0: a CPU process on each.
    time
        Limit, as sbatch takes it: minutes, hours:minutes:seconds, days-hours.
    cpus_per_task
        CPUs of each node. Left out: enough for `data.workers`, or 8 for each process.
    partition, account, qos
        Handed on to sbatch.
    starter
        What starts the processes: `accelerate launch` once on each node, or srun itself.
    dry_run
        Only print the job.
    """
    from launcher.commands.jobs.submit import submit as submit_recipe

    return submit_recipe(
        load_recipe(recipe, overrides),
        overrides,
        nodes=nodes,
        gpus_per_node=gpus_per_node,
        cpus_per_task=cpus_per_task,
        time=time,
        starter=starter,
        options={"partition": partition, "account": account, "qos": qos},
        dry_run=dry_run,
    )
