"""`launcher verify-resume RECIPE`: proves on this machine that a run that is killed and gone on with loses nothing."""

from __future__ import annotations

import os
import random
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from launcher.commands.jobs.verify_resume.compare import (
    DIFFERS,
    EXACT,
    NOT_COMPARABLE,
    Row,
    Steps,
    Tolerance,
    compare_augmentation,
    compare_losses,
    compare_resume,
    compare_samples,
    compare_weights,
    read_history,
    read_whole,
)
from launcher.commands.jobs.verify_resume.trainings import Trainings, checkpoint_interval, instrumented
from launcher.commands.jobs.verify_resume.traits import probe_traits, rounding_of, why_not_comparable
from launcher.data.prepare import prepare_data
from launcher.distributed.signals import install_signal_handlers
from launcher.distributed.strategy import choose_device
from launcher.distributed.world import World, read_world
from launcher.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR, RecipeError, SpawnedRunError, UserError
from launcher.recipe.parse import LoadedRecipe, load_recipe
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import Manifest

FEWEST_STEPS = 4
OTHER_SIZES = (2, 1, 3, 4, 5, 6, 7, 8)
"""World sizes to try for the second kill, in this order."""

WHOLE, KILLED, RESIZED = "whole", "killed", "resized"
"""Names of the runs and of their folders."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says beside recipe and overrides; None: chosen here."""

    steps: int
    processes: int | None = None
    other_processes: int | None = None
    seed: int | None = None
    keep: Path | None = None
    hang_s: float = 900.0


@dataclass(frozen=True)
class Verification:
    """`plan`: of the whole run and of each run until it is killed. `other`: of the second one afterwards, if any."""

    recipe: Recipe
    plan: Plan
    other: Plan | None
    attempts: Trainings
    console: Console

    @property
    def is_cuda(self) -> bool:
        return self.attempts.device == "cuda"


def verify(recipe_file: Path, overrides: Sequence[str], options: Options) -> int:
    """Train a few steps whole, killed, and killed and resumed on other processes; print what differs.

    Raise LauncherError or ShardsError for what stands in the way.
    """
    _check_options(options)
    stop = install_signal_handlers()
    console = Console()
    all_overrides = (*overrides, *instrumented(options.steps))
    loaded = load_recipe(recipe_file, all_overrides)
    recipe = complete_recipe(loaded, console.say)
    num_gpus = torch.cuda.device_count()
    device = choose_device(recipe.strategy.device, num_gpus, World(), os.environ)
    size = options.processes or (num_gpus if device == "cuda" else 1)
    _check_device(recipe, num_gpus, {size, options.other_processes or 1})
    manifest = prepare_data(recipe.data, World(), stop)
    plan = plan_run(loaded, recipe, size, manifest)
    other = _plan_other(loaded, recipe, manifest, plan, options.other_processes, num_gpus if device == "cuda" else None)
    folder = _make_folder(options.keep)
    attempts = Trainings(recipe_file, all_overrides, device, folder, options.hang_s, stop)
    v = Verification(recipe, plan, other, attempts, console)
    try:
        rows = _run_all(v, _draw_steps(v, options.seed))
    except BaseException:
        console.say(f"what the runs left is in {folder}")
        raise
    return _show(v, rows, is_kept=options.keep is not None)


def _check_options(options: Options) -> None:
    if options.steps < FEWEST_STEPS:
        raise UserError(f"--steps {options.steps}: must be {FEWEST_STEPS} or more: a checkpoint, a kill, and some more")
    for name, number in (("processes", options.processes), ("other-processes", options.other_processes)):
        if number is not None and number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")
    if not options.hang_s > 0:
        raise UserError(f"--hang-s {options.hang_s:g}: must be more than 0")
    if read_world(os.environ).size > 1:
        raise UserError("verify-resume starts its processes itself: launcher verify-resume RECIPE --processes N")


def _check_device(recipe: Recipe, num_gpus: int, sizes: set[int]) -> None:
    for size in sizes:
        choose_device(recipe.strategy.device, num_gpus, World(size=size, local_size=size), os.environ)


def _plan_other(
    loaded: LoadedRecipe, recipe: Recipe, manifest: Manifest, plan: Plan, wanted: int | None, most: int | None
) -> Plan | None:
    """Of the world size to go on with after the second kill; None where there is none. `most`: GPUs of this machine.

    Raise UserError when the size that is wanted cannot be.
    """
    if wanted == plan.world_size:
        raise UserError(f"--other-processes {wanted}: is what --processes says; name another number")
    if wanted is not None:
        return plan_run(loaded, recipe, wanted, manifest)
    for size in OTHER_SIZES:
        if size == plan.world_size or (most is not None and size > most):
            continue
        try:
            return plan_run(loaded, recipe, size, manifest)
        except RecipeError:
            continue
    return None


def _make_folder(keep: Path | None) -> Path:
    if keep is None:
        return Path(tempfile.mkdtemp(prefix="launcher-verify-"))
    try:
        keep.mkdir(parents=True, exist_ok=True)
        is_empty = not any(keep.iterdir())
    except OSError as error:
        raise UserError(f"--keep {keep}: cannot be made ({error.strerror}); name another folder") from None
    if not is_empty:
        raise UserError(f"--keep {keep}: is not empty; name another folder")
    return keep


def _draw_steps(v: Verification, seed: int | None) -> tuple[int, int]:
    """The steps to kill at, each after the first checkpoint and before the last step."""
    plan = v.plan
    seed = secrets.randbelow(10**6) if seed is None else seed
    draw = random.Random(seed)
    first, last = checkpoint_interval(plan.total_steps) + 1, plan.total_steps - 1
    kills = draw.randint(first, last), draw.randint(first, last)
    v.console.say(
        f"kills drawn at steps {kills[0]} and {kills[1]} of {plan.total_steps}; --seed {seed} draws them again"
    )
    reached = plan.stage(plan.total_steps) + 1
    if reached < len(plan.stage_starts):
        v.console.say(
            f"note: these steps reach stage {reached} of {len(plan.stage_starts)} of backbone.freeze; "
            f"--steps {plan.stage_starts[-1] + FEWEST_STEPS} would reach all"
        )
    return kills


def _run_all(v: Verification, kills: tuple[int, int]) -> list[Row]:
    size, folder = v.plan.world_size, v.attempts.folder
    v.console.say(f"{WHOLE} run: {v.plan.total_steps} steps on {_processes(size)} ({v.attempts.device})")
    try:
        v.attempts.run_to_end(WHOLE, size)
    except SpawnedRunError as error:
        kind = UserError if error.code == EXIT_USER_ERROR else SpawnedRunError
        raise kind(f"{WHOLE} run: {error}") from None
    whole = read_whole(folder / WHOLE)
    rows = _kill_and_compare(v, KILLED, v.plan, kills[0], whole)
    if v.other is not None:
        return rows + _kill_and_compare(v, RESIZED, v.other, kills[1], whole)
    why = "there is one GPU" if v.is_cuda and size == 1 else "the recipe fits no other number of processes here"
    return [*rows, Row(f"{RESIZED}: {_processes(size)}", "everything", f"{NOT_COMPARABLE} ({why})")]


def _kill_and_compare(v: Verification, name: str, plan: Plan, kill: int, whole: Steps) -> list[Row]:
    """Begin as the whole run did, and go on by `plan`."""
    size, other_size, folder = v.plan.world_size, plan.world_size, v.attempts.folder
    v.console.say(f"{name} run: SIGKILL at step {kill} on {_processes(size)}, then on with {_processes(other_size)}")
    title = f"{name}: {_processes(size)}" if size == other_size else f"{name}: {size}, then {_processes(other_size)}"
    try:
        v.attempts.kill_at(name, size, kill)
        v.attempts.run_to_end(name, other_size)
        history = read_history(folder / name)
    except SpawnedRunError as error:
        newest = max(read_whole(folder / name), default=0)
        return [Row(title, "goes on", f"{DIFFERS} after step {newest} ({error})")]
    before, after, no_weights = _expectations(v, plan)
    weights = no_weights or compare_weights(folder / WHOLE, folder / name, v.plan.total_steps)
    return [
        Row(title, "goes on", compare_resume(whole, history)),
        Row(title, "sample ids", compare_samples(whole, history)),
        Row(title, "augmentation", compare_augmentation(whole, history)),
        Row(title, "losses", compare_losses(whole, history, before, after)),
        Row(title, "weights", weights),
    ]


def _expectations(v: Verification, plan: Plan) -> tuple[Tolerance, Tolerance | str, str | None]:
    """For a run that goes on by `plan`: how equal its losses must be before the kill and after it, or why they cannot
    be compared; and why its weights cannot."""
    habits = probe_traits(v.recipe, plan)
    rounding = rounding_of(habits, v.recipe)
    before = rounding if v.is_cuda else EXACT
    if plan.world_size != v.plan.world_size:
        after = why_not_comparable(habits, v.recipe, v.plan, plan) or rounding
        return before, after, f"{NOT_COMPARABLE} (sums over other processes are rounded in another order)"
    if v.is_cuda:
        return before, before, f"{NOT_COMPARABLE} (a GPU may round sums in another order each time)"
    return before, before, None


def _show(v: Verification, rows: list[Row], is_kept: bool) -> int:
    v.console.columns(("run", "compared", "verdict"), [(row.run, row.what, row.verdict) for row in rows])
    num_different = sum(row.differs for row in rows)
    if num_different or is_kept:
        v.console.say(f"what the runs left is in {v.attempts.folder}")
    else:
        shutil.rmtree(v.attempts.folder)
    if num_different:
        v.console.say(f"killed and resumed is not the same as never interrupted: {num_different} of {len(rows)} differ")
        return EXIT_FAILED
    v.console.say("killed and resumed is the same as never interrupted, in all that can be compared")
    return EXIT_DONE


def _processes(size: int) -> str:
    return "1 process" if size == 1 else f"{size} processes"
