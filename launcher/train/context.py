"""Everything that a run is made of, built once from the recipe and held together."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from launcher.augment.pipeline import Augment, build_augment, find_needed_side
from launcher.checkpoint.async_writer import Saver, SaveReport
from launcher.checkpoint.network_spec import Card
from launcher.checkpoint.restore import TrainState
from launcher.data.bad_samples import build_damage
from launcher.data.encoded import Times
from launcher.data.loader import Loader, count_workers
from launcher.data.nvjpeg import is_there, time_decoders
from launcher.data.order import Order, build_order
from launcher.data.prepare import open_folder
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import Strategy, seed_rank
from launcher.errors import UserError
from launcher.metrics.counts import Stopwatch
from launcher.models.frozen.freeze import find_blocks, freeze, frozen_names
from launcher.models.loss import LossFunction, build_loss, count_outputs, with_auxiliary
from launcher.models.optim.build import build_groups, build_optimizer
from launcher.models.zoo import Network, build_model, check_sizes
from launcher.recipe.lint import final_size
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe
from launcher.run.console import Console, NoConsole
from launcher.run.folder import RunFolder
from launcher.run.journal import Journal, NoJournal
from launcher.run.mirror import NoWandb, WandbMirror, choose_mode
from launcher.run.wandb import facts_of
from shards.manifest import Manifest


@dataclass(frozen=True)
class Training:
    """Everything that a run is made of, built once by `train.main`."""

    recipe: Recipe
    plan: Plan
    order: Order
    run: RunFolder
    strategy: Strategy
    network: Network
    ema: AveragedModel | None
    """Moving average of the network's weights, where the recipe keeps one."""
    optimizer: Optimizer
    state: TrainState
    saver: Saver
    loaders: dict[str, Loader]
    """For each split."""
    augment_train: Augment
    augment_eval: Augment
    loss_train: LossFunction
    loss_eval: LossFunction
    classes: tuple[str, ...]
    watch: Stopwatch
    left_out: dict[str, dict[int, str]]
    """Of each split the images that no process can read, as told so far since this process began: id -> why."""
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
        self.saver.close()
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
    card = Card(recipe, manifest.classes, mean, std)
    state = TrainState(network.model, ema, optimizer, strategy, recipe.run.seed, run.id, manifest.sha256, card)
    console = Console(plan.total_steps, plan.steps_per_epoch) if is_first else NoConsole()
    wandb = _build_wandb(recipe, run) if is_first else NoWandb()
    journal = Journal(run.path, wandb.log) if is_first else NoJournal()
    return Training(
        recipe=recipe,
        plan=plan,
        order=build_order(plan, manifest, recipe.run.seed),
        run=run,
        strategy=strategy,
        network=network,
        ema=ema,
        optimizer=optimizer,
        state=state,
        saver=Saver(run.checkpoints, recipe.checkpoint, state, SaveReport(plan, journal, console)),
        loaders=_build_loaders(recipe, plan, manifest, strategy, console.say),
        augment_train=build_augment(recipe.augment.train, mean, std, strategy.memory_format),
        augment_eval=build_augment(recipe.augment.eval_ops, mean, std, strategy.memory_format),
        loss_train=with_auxiliary(build_loss(recipe.loss, training=True), network.auxiliary_weight),
        loss_eval=build_loss(recipe.loss, training=False),
        classes=manifest.classes,
        watch=Stopwatch(),
        left_out={},
        costs=Times(),
        journal=journal,
        console=console,
        wandb=wandb,
    )


def _build_loaders(
    recipe: Recipe, plan: Plan, manifest: Manifest, strategy: Strategy, say: Callable[[str], None]
) -> dict[str, Loader]:
    workers = count_workers(recipe.data.workers, strategy.world)
    folder = open_folder(recipe.data, manifest, strategy.world)
    needed = {"train": find_needed_side(recipe.augment.train)}
    needed |= {split: find_needed_side(recipe.augment.eval_ops) for split in plan.num_eval}
    readers = {split: ShardReader(folder, manifest, split) for split in needed}
    on_device = _choose_decoder(recipe.data.decode, readers["train"], needed["train"], workers, strategy, say)
    return {
        split: Loader(readers[split], workers, strategy.device, side, on_device, build_damage(recipe.data))
        for split, side in needed.items()
    }


def _choose_decoder(
    wanted: Literal["auto", "cpu", "cuda"],
    reader: ShardReader,
    needed_side: int | None,
    workers: int,
    strategy: Strategy,
    say: Callable[[str], None],
) -> bool:
    """Whether JPEG is decoded on the GPU: the same on every process. Raise UserError where there is none."""
    if strategy.device.type == "cpu":
        if wanted == "cuda":
            raise UserError("data.decode: cuda decodes on a GPU and there is none here; use auto or cpu")
        return False
    has_it = all(strategy.gather(wanted != "cpu" and is_there(strategy.device)))
    if wanted == "cuda" and not has_it:
        raise UserError("data.decode: cuda needs a torchvision with nvJPEG; use auto or cpu")
    if wanted != "auto" or not has_it:
        return wanted == "cuda"
    # All at once, as in training: the processes of a node share its cores.
    speeds = strategy.gather(time_decoders(reader, needed_side, workers, strategy.device))
    by_cpu, by_gpu = (float(sum(each)) for each in zip(*speeds, strict=True))
    place = "GPU" if by_gpu > by_cpu else "CPU"
    say(f"JPEG is decoded on the {place}: tried at {by_cpu:,.0f} images/s by CPU threads, {by_gpu:,.0f} by nvJPEG")
    return by_gpu > by_cpu


def _build_wandb(recipe: Recipe, run: RunFolder) -> WandbMirror:
    mode = choose_mode(recipe.log.wandb.mode, os.environ)
    if mode == "disabled":
        return NoWandb()
    return WandbMirror(facts_of(recipe.model_dump(mode="json"), run.path, run.id), mode)
