"""`launcher verify-resume RECIPE`: checks that killing and resuming a run gives the same training as never stopping."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch

from launcher.commands.jobs.options import FEWEST_STEPS, VerifyOptions
from launcher.commands.jobs.spawn import check_single_process
from launcher.commands.jobs.verify_resume.compare import Comparison
from launcher.commands.jobs.verify_resume.verification import Trainings, Verification, draw_kill_steps, instrumented
from launcher.data.prepare import prepare_data
from launcher.distributed.signals import install_signal_handlers
from launcher.distributed.strategy import choose_device
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE, EXIT_FAILED, RecipeError, UserError
from launcher.recipe.parse import LoadedRecipe, load_recipe
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.text import Say
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import Manifest

OTHER_SIZES = (2, 1, 3, 4, 5, 6, 7, 8)
"""World sizes to try for the second kill, in this order."""


def verify(recipe_file: Path, overrides: Sequence[str], options: VerifyOptions) -> int:
    """Train a few steps uninterrupted, killed and resumed, and killed and resumed on other processes; compare them.

    Raise LauncherError or ShardsError for what the user can fix.
    """
    options.check()
    check_single_process("verify-resume RECIPE")
    stop, console = install_signal_handlers(), Console()
    all_overrides = (*overrides, *instrumented(options.steps))
    loaded = load_recipe(recipe_file, all_overrides)
    recipe = complete_recipe(loaded, console.say)
    num_gpus = torch.cuda.device_count()
    device = choose_device(recipe.strategy.device, num_gpus, World(), os.environ)
    size = options.processes or (num_gpus if device == "cuda" else 1)
    for each in {size, options.other_processes or 1}:
        choose_device(recipe.strategy.device, num_gpus, World(size=each, local_size=each), os.environ)
    manifest = prepare_data(recipe.data, World(), stop)
    plan = plan_run(loaded, recipe, size, manifest)
    max_size = num_gpus if device == "cuda" else max(OTHER_SIZES)
    resized_plan = _plan_resized(loaded, recipe, manifest, plan, options.other_processes, max_size)
    folder = _make_folder(options.keep)
    trainings = Trainings(recipe_file, all_overrides, device, folder, options.hang_s, stop)
    kill_steps = _choose_kill_steps(plan, options.seed, console.say)
    try:
        comparisons = Verification(recipe, plan, resized_plan, trainings, console.say).run(kill_steps)
    except BaseException:
        console.say(f"the runs are kept in {folder}")
        raise
    return _show(comparisons, folder, options.keep is not None, console)


def _plan_resized(
    loaded: LoadedRecipe, recipe: Recipe, manifest: Manifest, plan: Plan, wanted: int | None, max_size: int
) -> Plan | None:
    """Plan with another world size than `plan`, or None. Raise UserError when the `wanted` size is not possible."""
    if wanted == plan.world_size:
        raise UserError(f"--other-processes {wanted}: is the same as --processes; choose another number")
    if wanted is not None:
        return plan_run(loaded, recipe, wanted, manifest)
    for size in OTHER_SIZES:
        if size != plan.world_size and size <= max_size:
            with suppress(RecipeError):
                return plan_run(loaded, recipe, size, manifest)
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


def _choose_kill_steps(plan: Plan, seed: int | None, say: Say) -> tuple[int, int]:
    seed = secrets.randbelow(10**6) if seed is None else seed
    kill_steps = draw_kill_steps(plan, seed)
    say(f"kills at steps {kill_steps[0]} and {kill_steps[1]} of {plan.total_steps}; --seed {seed} repeats them")
    stages = plan.stage(plan.total_steps) + 1
    if stages < len(plan.stage_starts):
        say(
            f"note: {plan.total_steps} steps reach stage {stages} of {len(plan.stage_starts)} of backbone.freeze; "
            f"--steps {plan.stage_starts[-1] + FEWEST_STEPS} reaches all"
        )
    return kill_steps


def _show(comparisons: list[Comparison], folder: Path, is_kept: bool, console: Console) -> int:
    console.columns(("run", "compared", "verdict"), [(each.run, each.what, each.verdict) for each in comparisons])
    num_different = sum(each.differs for each in comparisons)
    if num_different or is_kept:
        console.say(f"the runs are kept in {folder}")
    else:
        shutil.rmtree(folder)
    if num_different:
        counts = f"{num_different} of {len(comparisons)} comparisons differ"
        console.say(f"killing and resuming does not give the same training: {counts}")
        return EXIT_FAILED
    console.say("killing and resuming gives the same training, in everything that can be compared")
    return EXIT_DONE
