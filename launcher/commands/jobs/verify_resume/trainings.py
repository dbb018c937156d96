"""Trainings of a recipe that run to the end, or are killed at a step."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from launcher.commands.jobs.spawn import SpawnedRanks, environment_for, follow, train_command
from launcher.distributed.comm import ShouldStop
from launcher.errors import UserError
from launcher.run.folder import FINISHED, read_summary
from launcher.run.journal import JournalTail

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
        with self._start(name, world_size) as (_, steps):
            for _ in steps:
                pass

    def kill_at(self, name: str, world_size: int, kill_step: int) -> None:
        """Start the training, and SIGKILL all its ranks once the journal has `kill_step` and a checkpoint exists.

        Raise SpawnedRunError when it fails or hangs, UserError when it ends first, again and again.
        """
        folder = self.folder / name
        for _ in range(MAX_TRIES):
            with self._start(name, world_size) as (ranks, steps):
                for step in steps:
                    if step >= kill_step and (folder / "checkpoints" / "last").exists():
                        ranks.kill()
                        break
            if read_summary(folder).get("status") not in FINISHED:
                return
            shutil.rmtree(folder)
        raise UserError(f"{name} run: ends before it can be killed at step {kill_step}; give more --steps")

    @contextmanager
    def _start(self, name: str, world_size: int) -> Iterator[tuple[SpawnedRanks, Iterator[int]]]:
        """Yield the ranks, and their newest step as `follow` gives it."""
        folder = self.folder / name
        command = train_command(self.recipe_file, [*self.overrides, f"run.dir={json.dumps(str(folder))}"])
        environment = environment_for(world_size, self.device)
        journal = JournalTail(folder, from_end=True)
        with SpawnedRanks(command, world_size, environment, folder) as ranks:
            yield ranks, follow(ranks, journal, self.hang_s, self.stop)


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
