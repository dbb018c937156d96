"""`launcher bench RECIPE`: which stage of a training limits it on this machine, and what to set."""

from __future__ import annotations

import os
from dataclasses import replace
from tempfile import TemporaryDirectory

import torch

from launcher.commands.recipe.bench.advice import cache_keys, choose_workers, describe_cache, describe_limit
from launcher.commands.recipe.bench.measure import feed_of, measure, take_samples
from launcher.data.decoded import free_bytes
from launcher.data.loader import count_workers
from launcher.data.prepare import prepare_data
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World, read_world
from launcher.errors import EXIT_DONE, UserError
from launcher.models.frozen.freeze import set_training
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.run.folder import open_run
from launcher.run.rank_log import log_warnings, open_rank_log
from launcher.train.context import Training, build_training
from launcher.train.input_cost import setting_of
from launcher.train.prepare import complete_recipe, plan_run
from launcher.train.stage import enter_stage


def bench(loaded: LoadedRecipe, seconds: float, processes: int) -> int:
    """Measure for about so many seconds, as one of `processes` that share this machine and the batch. Print a table.

    Raise LauncherError or ShardsError for what the user can mend.
    """
    if not seconds > 0:
        raise UserError(f"--seconds {seconds:g}: must be more than 0")
    if processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    if read_world(os.environ).size > 1:
        raise UserError("bench is a single process: python -m launcher bench RECIPE --processes N")
    recipe = complete_recipe(loaded, Console(1, 1).say)
    log_warnings()
    manifest = prepare_data(recipe.data, World())
    with TemporaryDirectory(prefix="launcher-bench-") as folder:
        alone = _without_keeping(recipe, folder)
        plan = plan_run(loaded, alone, processes, manifest)
        strategy = build_strategy(alone.strategy, World(), alone.run.seed, alone.run.deterministic)
        run = open_run(alone)
        open_rank_log(run.logs, 0)
        t = build_training(alone, plan, manifest, strategy, run)
        try:
            _measure_and_say(t, recipe, count_workers(None, World(local_size=processes)), seconds)
        except torch.OutOfMemoryError:
            raise UserError(
                f"train.micro_batch: a pass of {plan.micro_batch} images takes more memory than the GPU has; lower it, "
                "or say with --processes how many share the batch"
            ) from None
        finally:
            t.close()
    return EXIT_DONE


def _without_keeping(recipe: Recipe, folder: str) -> Recipe:
    """Nothing goes to a run folder, to W&B or to a cache; and no threads run but those that are measured."""
    wandb = recipe.log.wandb.model_copy(update={"mode": "disabled"})
    return recipe.model_copy(
        update={
            "run": recipe.run.model_copy(update={"dir": folder}),
            "data": recipe.data.model_copy(update={"workers": 0, "cache": "none"}),
            "strategy": recipe.strategy.model_copy(update={"feature_cache_gib": 0.0}),
            "log": recipe.log.model_copy(update={"wandb": wandb}),
        }
    )


def _measure_and_say(t: Training, recipe: Recipe, num_cores: int, seconds: float) -> None:
    """`recipe`: as the user wrote it; measured in its first stage of freezing."""
    learner = enter_stage(t, 0, 0, lambda: False)
    set_training(t.network.model)
    samples = take_samples(t)
    speeds, rows = measure(t, learner, samples, num_cores, seconds)
    t.console.columns(("stage", "images/s", "measured"), rows)
    num_bytes = 3 * int(samples.num_pixels * t.plan.num_train)
    room_bytes = free_bytes(is_shared=t.plan.world_size > 1)
    keys = cache_keys(recipe.data, num_bytes, room_bytes)
    setting = replace(setting_of(recipe, learner, t.strategy.device.type), cache_keys=keys)
    t.console.say(describe_limit(speeds, samples.long_side, setting))
    t.console.say(f"recommended: data.workers={choose_workers(speeds.by_workers, speeds.network)}")
    t.console.say(describe_cache(speeds, keys, num_bytes, room_bytes))
    if feed_of(learner).engine is not None and setting.feature_keys is None:
        t.console.say(
            "the frozen part's features may be kept (strategy.feature_cache_gib): then pictures pass as above only once"
        )
