"""Trainings of a recipe that are run to their end, or killed at a step."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from launcher.commands.jobs.spawn import SpawnedRanks, environment_for, follow, train_command
from launcher.distributed.comm import ShouldStop
from launcher.errors import UserError
from launcher.run.folder import FINISHED, read_summary

CHECKPOINTS = 5
"""About so many in a run: each kill has one before it and steps after it."""
TRIES = 3
"""A short training on a busy machine may end before the kill comes."""


@dataclass(frozen=True)
class Trainings:
    """Trainings of one recipe, each in a folder of its name in `folder`. `hang_s`: as `watch` has it."""

    recipe_file: Path
    overrides: tuple[str, ...]
    device: str
    folder: Path
    hang_s: float
    stop: ShouldStop

    def start(self, name: str, size: int) -> SpawnedRanks:
        run_dir = f"run.dir={json.dumps(str(self.folder / name))}"
        command = train_command(self.recipe_file, [*self.overrides, run_dir])
        return SpawnedRanks(command, size, environment_for(size, self.device), self.folder / name)

    def run_to_end(self, name: str, size: int) -> None:
        """Raise AttemptError when the run fails or hangs."""
        with self.start(name, size) as ranks:
            for _ in follow(ranks, self.folder / name, self.hang_s, self.stop):
                pass

    def kill_at(self, name: str, size: int, step: int) -> None:
        """SIGKILL to all ranks as soon as the journal has `step` and a checkpoint is there. Raise AttemptError."""
        folder = self.folder / name
        for _ in range(TRIES):
            with self.start(name, size) as ranks:
                for done in follow(ranks, folder, self.hang_s, self.stop):
                    if done >= step and (folder / "checkpoints" / "last").exists():
                        ranks.kill()
                        break
            if read_summary(folder).get("status") not in FINISHED:
                return
            shutil.rmtree(folder)
        raise UserError(f"{name} run: ends before it can be killed at step {step}; give more --steps")


def instrumented(steps: int) -> tuple[str, ...]:
    """Overrides that make of a recipe a few steps that tell all they do, and that nobody else hears of.

    Deterministic algorithms, so that what differs is the resume's doing; features are computed anew, so that each
    step's images are augmented in it.
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
    return max(1, steps // CHECKPOINTS)
