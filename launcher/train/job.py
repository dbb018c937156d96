"""A training: everything that never changes while it runs, made in the same way for every command."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.checkpoint.state import TrainState
from launcher.data.order import Order, build_order
from launcher.data.prepare import prepare_data
from launcher.distributed.strategy import Strategy, seed_rank
from launcher.models.frozen.freeze import find_blocks, freeze
from launcher.models.loss import count_outputs
from launcher.models.optim.build import build_groups, build_optimizer
from launcher.models.optim.ema import MovingAverage
from launcher.models.sync_batchnorm import sync_batchnorm
from launcher.models.zoo import build_model, check_sizes
from launcher.recipe.augment import Channels
from launcher.recipe.facts import eval_size, train_size
from launcher.recipe.fields import with_values
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.run.console import TrainingConsole
from launcher.run.folder import RunFolder
from launcher.run.journal import Journal
from launcher.run.mirror import Mirror, NullMirror, WandbMirror, choose_mode
from launcher.run.rank_log import open_rank_log
from launcher.run.run_log import NullLog, Rank0Log, RunLog
from launcher.run.wandb import metadata_of
from launcher.train.prepare import plan_run
from shards.manifest import Manifest


@dataclass(frozen=True)
class Job:
    """The parts of a training that never change while it runs. `recipe`: complete, with `run.dir` filled in."""

    recipe: Recipe
    plan: Plan
    order: Order
    manifest: Manifest
    strategy: Strategy
    run: RunFolder

    @property
    def classes(self) -> tuple[str, ...]:
        return self.manifest.classes

    @property
    def normalisation(self) -> tuple[Channels, Channels]:
        """Mean and standard deviation of each channel, on the scale [0, 1]."""
        return self.recipe.augment.normalisation(self.manifest.mean, self.manifest.std)


def open_job(
    loaded: LoadedRecipe,
    recipe: Recipe,
    strategy: Strategy,
    open_run_folder: Callable[[Recipe], RunFolder],
    max_eval_images: int | None = None,
    world_size: int | None = None,
) -> Job:
    """Prepare the data, plan, and open the run folder. Called by every rank.

    `recipe`: made from `loaded`. `max_eval_images`: of each split; None: all. `world_size`: planned for; None: the real
    one. Raise LauncherError or ShardsError for what the user can correct.
    """
    comm = strategy.comm
    manifest = comm.rank0_first(partial(prepare_data, recipe.data, comm.world))
    plan = plan_run(loaded, recipe, world_size or comm.world.size, manifest, max_eval_images)
    comm.check_same("shards, recipe or number of images", [manifest.sha256, recipe.model_dump_json(), str(plan)])
    run = comm.run_on_rank0(lambda: open_run_folder(recipe))
    open_rank_log(run.logs, comm.world.rank)
    recipe = with_values(recipe, {"run.dir": str(run.path)})
    return Job(recipe, plan, build_order(plan, manifest, recipe.run.seed), manifest, strategy, run)


def build_state(job: Job) -> TrainState:
    """Network, averaged weights and optimizer at step 0, the first stage frozen.

    Raise UserError when weights are not to be had.
    """
    recipe, strategy, num_classes = job.recipe, job.strategy, job.plan.num_classes
    build = partial(build_model, recipe.backbone, count_outputs(recipe.loss, num_classes))
    network = strategy.comm.local_rank0_first(build)
    check_sizes(network, (train_size(recipe), eval_size(recipe)))
    freeze(network, recipe.backbone.stages[0].freeze)
    model = sync_batchnorm(network.model, recipe.backbone.name) if strategy.syncs_batchnorm else network.model
    network = replace(network, model=strategy.to_device(model))
    decay = recipe.optim.ema_decay
    ema = None if decay is None else MovingAverage(network.model, decay)
    groups = build_groups(recipe.optim, network.model, network.head_names, find_blocks(network))
    optimizer = strategy.prepare_optimizer(build_optimizer(recipe.optim, groups, recipe.strategy.precision))
    seed_rank(recipe.run.seed, strategy.world)
    spec = NetworkSpec(recipe, job.classes, *job.normalisation)
    return TrainState(network, ema, optimizer, strategy, recipe.run.seed, job.run.id, job.manifest.sha256, spec)


def open_run_log(job: Job) -> RunLog:
    if not job.strategy.world.is_first:
        return NullLog()
    mirror: Mirror = NullMirror()
    mode = choose_mode(job.recipe.log.wandb.mode, os.environ)
    if mode != "disabled":
        mirror = WandbMirror(metadata_of(job.recipe.model_dump(mode="json"), job.run.path, job.run.id), mode)
    journal = Journal(job.run.path, job.plan.steps_per_epoch, mirror.log)
    return Rank0Log(journal, TrainingConsole(job.plan.total_steps, job.plan.steps_per_epoch), mirror)
