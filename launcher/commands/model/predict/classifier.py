"""The network that predicts: of a run, or one of torchvision's with the classes of ImageNet."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torchvision
from torch import nn

from launcher.augment.pipeline import Augment, build_augment
from launcher.commands.model.infer import Device, build_eval_strategy
from launcher.commands.model.load import load_trained, read_run_spec
from launcher.distributed.strategy import Strategy
from launcher.distributed.world import read_world
from launcher.errors import UserError, nearest
from launcher.models.download import fetch_named
from launcher.models.transform import read_transform
from launcher.models.zoo import IMAGENET_CLASSES, build_model
from launcher.recipe.backbone import Backbone
from launcher.recipe.schema import Recipe
from launcher.recipe.schema import Strategy as StrategySection

TORCHVISION = "torchvision/"


@dataclass(frozen=True)
class Classifier:
    """`model`: on the strategy's device, for evaluation. `notes`: what to tell about it."""

    model: nn.Module
    classes: tuple[str, ...]
    augment: Augment
    strategy: Strategy
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """A network that is known by name only. `open` loads it, and may have to download it for that.

    `open` raises RunError when a checkpoint is damaged, UserError when weights are not to be had.
    """

    classes: tuple[str, ...]
    open: Callable[[], Classifier]


def find_classifier(run: str, which: str | None, device: Device) -> Found:
    """`run`: a run's folder, a checkpoint, or `torchvision/NAME`. `which`: of the run's checkpoints; None: the best.

    Raise RunError when it is not there, UserError when torchvision has no such network.
    """
    if run.startswith(TORCHVISION) and not Path(run).is_dir():
        if which is not None:
            raise UserError(f"--checkpoint {which}: {run} has none; leave it out")
        return _find_torchvision(run.removeprefix(TORCHVISION), device)
    spec = read_run_spec(Path(run), which or "best")
    return Found(spec.classes, lambda: _open_run(Path(run), which or "best", spec.recipe, device))


def _open_run(run: Path, which: str, recipe: Recipe, device: Device) -> Classifier:
    strategy = build_eval_strategy(
        recipe.strategy, device, read_world(os.environ), recipe.run.seed, recipe.run.deterministic
    )
    trained = load_trained(run, which, strategy)
    return Classifier(trained.network.model, trained.spec.classes, trained.augment, strategy)


def _find_torchvision(name: str, device: Device) -> Found:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        hint = nearest(TORCHVISION + name, [TORCHVISION + each for each in names])
        raise UserError(f"{TORCHVISION}{name}: torchvision has no such classifier{hint}")
    backbone = Backbone(name=name, weights="DEFAULT", head="keep")
    classes = tuple(torchvision.models.get_model_weights(name)[backbone.weights].meta["categories"])
    return Found(classes, lambda: _open_torchvision(backbone, classes, device))


def _open_torchvision(backbone: Backbone, classes: tuple[str, ...], device: Device) -> Classifier:
    name = backbone.name
    try:
        fetched = fetch_named(name, backbone.weights)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{TORCHVISION}{name}: its weights cannot be downloaded ({' '.join(str(error).split())}); give the same "
            "command where there is a network, or set TORCH_HOME to a folder that has them"
        ) from None
    network = build_model(backbone, IMAGENET_CLASSES)
    strategy = build_eval_strategy(StrategySection(), device, read_world(os.environ))
    transform = read_transform(backbone)
    augment = build_augment(transform.ops, transform.mean, transform.std, strategy.memory_format)
    notes = (*transform.notes, f"{name} {backbone.weights}, weights {fetched.path}")
    model = strategy.place(network.model).eval()
    return Classifier(model, classes, augment, strategy, notes)
