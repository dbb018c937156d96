"""The three runs of a verification, and what is compared between them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from launcher.commands.jobs.verify_resume.compare import (
    DIFFERS,
    EXACT,
    NOT_COMPARABLE,
    Comparison,
    Steps,
    Tolerance,
    compare_augmentation,
    compare_losses,
    compare_resume,
    compare_samples,
    compare_weights,
    read_killed_run,
    read_steps,
)
from launcher.commands.jobs.verify_resume.trainings import Trainings, checkpoint_interval
from launcher.commands.jobs.verify_resume.traits import probe_traits, rounding_of, why_not_comparable
from launcher.errors import EXIT_USER_ERROR, SpawnedRunError, UserError
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.text import Say

UNINTERRUPTED, KILLED, RESIZED = "uninterrupted", "killed", "resized"
"""Names of the runs and of their folders."""


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
        before, after, no_weights = self._expect(plan)
        weights = no_weights or compare_weights(folder / UNINTERRUPTED, folder / name, self.plan.total_steps)
        return [
            Comparison(title, "resume", compare_resume(expected, found)),
            Comparison(title, "sample ids", compare_samples(expected, found)),
            Comparison(title, "augmentation", compare_augmentation(expected, found)),
            Comparison(title, "losses", compare_losses(expected, found, before, after)),
            Comparison(title, "weights", weights),
        ]

    def _expect(self, plan: Plan) -> tuple[Tolerance, Tolerance | str, str | None]:
        """Tolerances of a run that resumes with `plan`.

        Tolerance of the losses before the kill; tolerance after it, or why they cannot be compared; None, or why the
        weights cannot be compared.
        """
        traits = probe_traits(self.recipe, plan)
        rounding = rounding_of(traits, self.recipe)
        before = rounding if self.is_cuda else EXACT
        if plan.world_size != self.plan.world_size:
            after = why_not_comparable(traits, self.recipe, self.plan, plan) or rounding
            reason = "sums over another number of processes are rounded in another order"
            return before, after, f"{NOT_COMPARABLE} ({reason})"
        if self.is_cuda:
            return before, before, f"{NOT_COMPARABLE} (a GPU may sum in another order each time)"
        return before, before, None


def draw_kill_steps(plan: Plan, seed: int) -> tuple[int, int]:
    """Steps after the first checkpoint and before the last step."""
    draw = random.Random(seed)
    first, last = checkpoint_interval(plan.total_steps) + 1, plan.total_steps - 1
    return draw.randint(first, last), draw.randint(first, last)


def show_processes(size: int) -> str:
    return "1 process" if size == 1 else f"{size} processes"
