"""The three runs of a verification, and what is compared between them."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.commands.jobs.spawn import SpawnedRanks, environment_for, follow, train_command
from launcher.commands.jobs.verify_resume.compare import (
    DIFFERS,
    EXACT,
    NOT_COMPARABLE,
    Comparison,
    Steps,
    Tolerance,
    compare_runs,
    compare_weights,
    read_killed_run,
    read_steps,
)
from launcher.commands.jobs.verify_resume.traits import probe_traits, rounding_of, why_not_comparable
from launcher.distributed.comm import ShouldStop
from launcher.errors import EXIT_USER_ERROR, SpawnedRunError, UserError
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.run.folder import FINISHED, read_summary
from launcher.run.journal import JournalTail
from launcher.text import Say, show_count

UNINTERRUPTED, KILLED, RESIZED = "uninterrupted", "killed", "resized"
"""Names of the runs and of their folders."""
NUM_CHECKPOINTS = 5
"""Checkpoints of a run, about: a kill comes after the first and before the last step."""
MAX_TRIES = 3
"""On a busy machine a short training may end before the kill."""


@dataclass(frozen=True)
class Trainings:
    """Trainings of one recipe, each in a folder of its name in `folder`. `hang_s`: see `follow`."""

    recipe_file: Path
    overrides: tuple[str, ...]
    device: str
    folder: Path
    hang_s: float
    stop: ShouldStop

    def run_to_end(self, name: str, world_size: int) -> None:
        """Start the training, or resume it. Raise SpawnedRunError when it fails or hangs."""
        with self._start(name, world_size) as steps:
            for _ in steps:
                pass

    def kill_at(self, name: str, world_size: int, kill_step: int) -> None:
        """Start the training, and SIGKILL all its ranks once the journal has `kill_step` and a checkpoint exists.

        Raise SpawnedRunError when it fails or hangs, UserError when it ends first, again and again.
        """
        folder = self.folder / name
        for _ in range(MAX_TRIES):
            with self._start(name, world_size) as steps:
                for step in steps:
                    if step >= kill_step and (folder / "checkpoints" / "last").exists():
                        break
            if read_summary(folder).get("status") not in FINISHED:
                return
            shutil.rmtree(folder)
        raise UserError(f"{name} run: ends before it can be killed at step {kill_step}; give more --steps")

    @contextmanager
    def _start(self, name: str, world_size: int) -> Iterator[Iterator[int]]:
        """Yield the newest steps, as `follow` does. Leaving the context kills the ranks that still run."""
        folder = self.folder / name
        command = train_command(self.recipe_file, [*self.overrides, f"run.dir={json.dumps(str(folder))}"])
        environment = environment_for(world_size, self.device)
        journal = JournalTail(folder, from_end=True)
        with SpawnedRanks(command, world_size, environment, folder) as ranks:
            yield follow(ranks, journal, self.hang_s, self.stop)


@dataclass(frozen=True)
class Verification:
    recipe: Recipe
    plan: Plan
    """Plan of every run until it is killed."""
    resized_plan: Plan | None
    """Plan of the second killed run once it resumes, with another world size; None where no other size is possible."""
    trainings: Trainings
    say: Say

    @property
    def is_cuda(self) -> bool:
        return self.trainings.device == "cuda"

    def run(self, kill_steps: tuple[int, int]) -> list[Comparison]:
        world_size, folder = self.plan.world_size, self.trainings.folder
        steps = f"{self.plan.total_steps} steps on {show_processes(world_size)}"
        self.say(f"{UNINTERRUPTED} run: {steps} ({self.trainings.device})")
        try:
            self.trainings.run_to_end(UNINTERRUPTED, world_size)
        except SpawnedRunError as error:
            kind = UserError if error.code == EXIT_USER_ERROR else SpawnedRunError
            raise kind(f"{UNINTERRUPTED} run: {error}") from None
        expected = read_steps(folder / UNINTERRUPTED)
        comparisons = self._kill_and_compare(KILLED, self.plan, kill_steps[0], expected)
        if self.resized_plan is not None:
            return comparisons + self._kill_and_compare(RESIZED, self.resized_plan, kill_steps[1], expected)
        has_one_gpu = self.is_cuda and world_size == 1
        why = "there is one GPU" if has_one_gpu else "the recipe fits no other number of processes here"
        title = f"{RESIZED}: {show_processes(world_size)}"
        return [*comparisons, Comparison(title, "everything", f"{NOT_COMPARABLE} ({why})")]

    def _kill_and_compare(self, name: str, plan: Plan, kill_step: int, expected: Steps) -> list[Comparison]:
        """Kill a run of `self.plan`, resume it with `plan`, and compare it."""
        size, other_size, folder = self.plan.world_size, plan.world_size, self.trainings.folder
        kill = f"SIGKILL at step {kill_step} on {show_processes(size)}"
        self.say(f"{name} run: {kill}, then resumed on {show_processes(other_size)}")
        sizes = show_processes(size) if size == other_size else f"{size}, then {show_processes(other_size)}"
        title = f"{name}: {sizes}"
        try:
            self.trainings.kill_at(name, size, kill_step)
            self.trainings.run_to_end(name, other_size)
            found = read_killed_run(folder / name)
        except SpawnedRunError as error:
            newest = max(read_steps(folder / name), default=0)
            return [Comparison(title, "resume", f"{DIFFERS} after step {newest} ({error})")]
        traits = probe_traits(self.recipe, plan)
        rounding = rounding_of(traits, self.recipe)
        before = rounding if self.is_cuda else EXACT
        after: Tolerance | str = before
        why_no_weights = "a GPU may sum in another order each time" if self.is_cuda else ""
        if size != other_size:
            after = why_not_comparable(traits, self.recipe, self.plan, plan) or rounding
            why_no_weights = "sums over another number of processes are rounded in another order"
        verdicts = compare_runs(expected, found, before, after)
        if why_no_weights:
            verdicts["weights"] = f"{NOT_COMPARABLE} ({why_no_weights})"
        else:
            verdicts["weights"] = compare_weights(folder / UNINTERRUPTED, folder / name, self.plan.total_steps)
        return [Comparison(title, what, verdict) for what, verdict in verdicts.items()]


def instrumented(steps: int) -> tuple[str, ...]:
    """Overrides that make a recipe a few steps long, and log everything that is compared.

    Deterministic algorithms, so that only resuming can make a difference; no stored features, so that each step
    augments its images.
    """
    return (
        f"train.epochs={steps}st",
        "train.patience=null",
        f"checkpoint.every={checkpoint_interval(steps)}st",
        "log.samples=true",
        "log.wandb.mode=disabled",
        "run.deterministic=true",
        "strategy.feature_cache_gib=0",
    )


def checkpoint_interval(steps: int) -> int:
    return max(1, steps // NUM_CHECKPOINTS)


def draw_kill_steps(plan: Plan, seed: int) -> tuple[int, int]:
    """Steps after the first checkpoint and before the last step."""
    draw = random.Random(seed)
    first, last = checkpoint_interval(plan.total_steps) + 1, plan.total_steps - 1
    return draw.randint(first, last), draw.randint(first, last)


def show_processes(size: int) -> str:
    return show_count(size, "process")
