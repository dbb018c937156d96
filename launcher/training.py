"""Everything that a run is made of, built once from the recipe and held together."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from launcher.augment.pipeline import Augment, build_augment
from launcher.checkpoint import TrainState
from launcher.data.files import Times
from launcher.data.loader import Loader, count_workers
from launcher.data.prepare import open_folder
from launcher.data.reader import ShardReader
from launcher.log.console import Console, NoConsole
from launcher.log.journal import Journal, NoJournal
from launcher.log.wandb import NoWandb, WandbMirror, choose_mode
from launcher.loss import LossFunction, build_loss, count_outputs, with_auxiliary
from launcher.metrics import Stopwatch
from launcher.models.freeze import find_blocks, freeze, frozen_names
from launcher.models.zoo import Network, build_model, check_sizes
from launcher.optim.build import build_groups, build_optimizer
from launcher.recipe.contradictions import final_size
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.run import RunFolder
from launcher.strategy import Strategy, seed_rank
from shards.manifest import Manifest


@dataclass(frozen=True)
class Training:
    """Everything that a run is made of, built once by `train.main`."""

    recipe: Recipe
    plan: Plan
    run: RunFolder
    strategy: Strategy
    network: Network
    ema: AveragedModel | None
    """Moving average of the network's weights, where the recipe keeps one."""
    optimizer: Optimizer
    state: TrainState
    loaders: dict[str, Loader]
    """For each split."""
    augment_train: Augment
    augment_eval: Augment
    loss_train: LossFunction
    loss_eval: LossFunction
    classes: tuple[str, ...]
    watch: Stopwatch
    costs: Times
    """Of the batches trained on so far, by this process since it began."""
    journal: Journal
    console: Console
    wandb: WandbMirror

    @property
    def whole(self) -> nn.Module:
        """The network as it is evaluated: with averaged weights, where the recipe keeps them."""
        whole: nn.Module = self.network.model if self.ema is None else self.ema.module
        return whole

    def close(self) -> None:
        """Let go of files, threads and the run folder."""
        self.console.close()
        self.journal.close()
        for loader in self.loaders.values():
            loader.close()
        if self.strategy.world.is_first:
            self.run.release()


def build_training(recipe: Recipe, plan: Plan, manifest: Manifest, strategy: Strategy, run: RunFolder) -> Training:
    """Raise UserError when pretrained weights are not to be had."""
    with strategy.first_on_node_first():
        network = build_model(recipe.backbone, count_outputs(recipe.loss, plan.num_classes))
    check_sizes(network, (final_size(recipe.augment.train), final_size(recipe.augment.eval_ops)))
    freeze(network, frozen_names(network, recipe.backbone.stages[0].freeze))
    network = replace(network, model=strategy.place(network.model))
    ema = None
    if recipe.optim.ema_decay is not None:
        average = get_ema_multi_avg_fn(recipe.optim.ema_decay)  # type: ignore[no-untyped-call]
        ema = AveragedModel(network.model, multi_avg_fn=average, use_buffers=True)
    groups = build_groups(recipe.optim, network.model, network.head_names, find_blocks(network))
    optimizer = strategy.adopt(build_optimizer(recipe.optim, groups, recipe.strategy.precision))
    seed_rank(recipe.run.seed, strategy.world)
    mean, std = recipe.augment.normalisation(manifest.mean, manifest.std)
    is_first = strategy.world.is_first
    return Training(
        recipe=recipe,
        plan=plan,
        run=run,
        strategy=strategy,
        network=network,
        ema=ema,
        optimizer=optimizer,
        state=TrainState(network.model, ema, optimizer, strategy, recipe.run.seed, run.id, manifest.sha256),
        loaders=_build_loaders(recipe, plan, manifest, strategy),
        augment_train=build_augment(recipe.augment.train, mean, std),
        augment_eval=build_augment(recipe.augment.eval_ops, mean, std),
        loss_train=with_auxiliary(build_loss(recipe.loss, training=True), network.auxiliary_weight),
        loss_eval=build_loss(recipe.loss, training=False),
        classes=manifest.classes,
        watch=Stopwatch(),
        costs=Times(),
        journal=Journal(run.path) if is_first else NoJournal(),
        console=Console(plan.total_steps, plan.steps_per_epoch) if is_first else NoConsole(),
        wandb=_build_wandb(recipe, run) if is_first else NoWandb(run.id),
    )


def _build_loaders(recipe: Recipe, plan: Plan, manifest: Manifest, strategy: Strategy) -> dict[str, Loader]:
    workers = count_workers(recipe.data.workers, strategy.world)
    folder = open_folder(recipe.data, manifest, strategy.world)
    return {
        split: Loader(ShardReader(folder, manifest, split), workers, strategy.device)
        for split in ("train", *plan.num_eval)
    }


def _build_wandb(recipe: Recipe, run: RunFolder) -> WandbMirror:
    mode = choose_mode(recipe.log.wandb.mode, os.environ)
    if mode == "disabled":
        return NoWandb(run.id)
    section = recipe.log.wandb
    if section.group is None:
        section = section.model_copy(update={"group": recipe.run.name})
    return WandbMirror(section, mode, run.path, run.id, run.path.name, recipe.model_dump(mode="json"))
