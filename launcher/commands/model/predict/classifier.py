"""The network that predicts: a run's, or one of torchvision's with the classes of ImageNet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torchvision
from torch import nn

from launcher.augment.execute import Augment, build_augment
from launcher.commands.model.infer import build_eval_strategy
from launcher.commands.model.load import load_trained, read_run_spec
from launcher.commands.model.options import DEFAULT_CHECKPOINT, Device
from launcher.distributed.strategy import Strategy
from launcher.errors import UserError, nearest
from launcher.models.download import fetch_named
from launcher.models.transform import read_transform
from launcher.models.zoo import IMAGENET_CLASSES, build_model
from launcher.recipe.backbone import Backbone
from launcher.recipe.schema import Recipe
from launcher.text import one_line

TORCHVISION = "torchvision/"


@dataclass(frozen=True)
class Classifier:
    model: nn.Module
    """On the strategy's device, in eval mode."""
    classes: tuple[str, ...]
    augment: Augment
    strategy: Strategy
    notes: tuple[str, ...] = ()
    """Notes for the user."""


Found = tuple[tuple[str, ...], Callable[[], Classifier]]
"""Classes, and a function that loads the classifier and downloads its weights if need be. It raises RunError when a
checkpoint is damaged, UserError when weights cannot be downloaded."""


def find_classifier(run: str, which: str | None, device: Device) -> Found:
    """`run`: a run's folder, a checkpoint, or `torchvision/NAME`. `which`: of the run's checkpoints; None: the best.

    Raise RunError when it does not exist, UserError when torchvision has no such network.
    """
    if run.startswith(TORCHVISION) and not Path(run).is_dir():
        if which is not None:
            raise UserError(f"--checkpoint {which}: {run} has no checkpoints; leave the option out")
        return _find_torchvision(run.removeprefix(TORCHVISION), device)
    checkpoint = which or DEFAULT_CHECKPOINT
    spec = read_run_spec(Path(run), checkpoint)
    return spec.classes, partial(_open_run, Path(run), checkpoint, spec.recipe, device)


def _open_run(run: Path, which: str, recipe: Recipe, device: Device) -> Classifier:
    strategy = build_eval_strategy(device, recipe)
    trained = load_trained(run, which, strategy)
    return Classifier(trained.model, trained.spec.classes, trained.augment, strategy)


def _find_torchvision(name: str, device: Device) -> Found:
    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        hint = nearest(TORCHVISION + name, [TORCHVISION + each for each in names])
        raise UserError(f"{TORCHVISION}{name}: torchvision has no such classifier{hint}")
    backbone = Backbone(name=name, weights="DEFAULT", head="keep")
    classes = tuple(torchvision.models.get_model_weights(name)[backbone.weights].meta["categories"])
    return classes, partial(_open_torchvision, backbone, classes, device)


def _open_torchvision(backbone: Backbone, classes: tuple[str, ...], device: Device) -> Classifier:
    name = backbone.name
    try:
        fetched = fetch_named(name, backbone.weights)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"{TORCHVISION}{name}: its weights cannot be downloaded ({one_line(error)}); run the same command where "
            "there is a network, or set TORCH_HOME to a folder that has them"
        ) from None
    network = build_model(backbone, IMAGENET_CLASSES)
    strategy = build_eval_strategy(device)
    transform = read_transform(backbone)
    augment = build_augment(transform.ops, transform.mean, transform.std, strategy.memory_format)
    notes = (*transform.notes, f"{name} {backbone.weights}, weights {fetched.path}")
    model = strategy.to_device(network.model).eval()
    return Classifier(model, classes, augment, strategy, notes)
