"""`launcher bench RECIPE`: the bottleneck of a training on this machine, and what to set."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from tempfile import TemporaryDirectory

from launcher.commands.recipe.bench.advice import cache_keys, choose_workers, describe_bottleneck, describe_cache
from launcher.commands.recipe.bench.measure import feed_of, measure, take_samples
from launcher.commands.recipe.options import BenchOptions
from launcher.data.shared_memory import free_bytes
from launcher.data.threads import count_workers
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World, read_world
from launcher.errors import EXIT_DONE, UserError
from launcher.models.frozen.freeze import set_training
from launcher.recipe.fields import with_values
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.run.console import Console
from launcher.run.folder import open_run
from launcher.run.rank_log import log_warnings
from launcher.train.input_report import tunables_of
from launcher.train.inputs import build_inputs
from launcher.train.job import Job, build_state, open_job, open_run_log
from launcher.train.out_of_memory import does_not_fit, find_smaller_micro_batch, out_of_memory_in_words
from launcher.train.prepare import complete_recipe
from launcher.train.stage import Stage, enter_stage

WITHOUT_KEEPING = {
    "data.workers": 0,
    "data.cache": "none",
    "strategy.feature_cache_gib": 0.0,
    "log.wandb.mode": "disabled",
}
"""Changes of the recipe: nothing goes to W&B or to a cache, and only measured threads run."""


def bench(loaded: LoadedRecipe, options: BenchOptions) -> int:
    """Measure one of the processes that share this machine and the batch. Print a table and advice.

    Raise LauncherError or ShardsError for what the user can fix.
    """
    options.check()
    if read_world(os.environ).size > 1:
        raise UserError("bench is a single process: python -m launcher bench RECIPE --processes N")
    console = Console()
    recipe = complete_recipe(loaded, console.say)
    log_warnings()
    with TemporaryDirectory(prefix="launcher-bench-") as folder, ExitStack() as closing:
        alone = with_values(recipe, {**WITHOUT_KEEPING, "run.dir": folder})
        strategy = build_strategy(alone.strategy, World(), alone.run.seed, alone.run.deterministic)
        job = open_job(loaded, alone, strategy, open_run, world_size=options.processes)
        closing.callback(job.run.release)
        state, log = build_state(job), open_run_log(job)
        inputs = build_inputs(job, log.say)
        for each in (log, inputs):
            closing.callback(each.close)
        with out_of_memory_in_words(lambda: _describe_out_of_memory(job)):
            stage = enter_stage(job, state, inputs, 0, 0, log)
            _measure_and_advise(job, stage, recipe, options, console)
    return EXIT_DONE


def _describe_out_of_memory(job: Job) -> str:
    smaller = find_smaller_micro_batch(job.recipe, job.plan)
    tries = [f"train.micro_batch={smaller}"] if smaller else []
    tries += ["a smaller size in augment.train", "the number of processes that share the batch as --processes"]
    return f"{does_not_fit('train.micro_batch', job.plan.micro_batch)}; try {' or '.join(tries)}"


def _measure_and_advise(job: Job, stage: Stage, recipe: Recipe, options: BenchOptions, console: Console) -> None:
    """`recipe`: as the user wrote it; `stage`: the first stage of its freezing."""
    set_training(stage.state.model)
    samples = take_samples(job, stage)
    num_cores = count_workers(None, World(local_size=options.processes))
    speeds, rows = measure(job, stage, samples, num_cores, options.seconds)
    console.columns(("stage", "images/s", "measured"), rows)
    num_bytes = 3 * int(samples.num_pixels * job.plan.num_train)
    room_bytes = free_bytes(is_shared=job.plan.world_size > 1)
    keys = cache_keys(recipe.data, num_bytes, room_bytes)
    tunables = replace(tunables_of(recipe, stage, job.strategy.device.type), cache_keys=keys)
    console.say(describe_bottleneck(speeds, samples.long_side, tunables))
    console.say(f"recommended: data.workers={choose_workers(speeds.by_workers, speeds.network)}")
    console.say(describe_cache(speeds, keys, num_bytes, room_bytes))
    if feed_of(stage).engine is not None and tunables.feature_keys is None:
        console.say(
            "features of the frozen part can be kept (strategy.feature_cache_gib): each image then passes only once"
        )
