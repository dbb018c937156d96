"""Backbones by name, with the recipe's head in place of their classifier."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from launcher.errors import UserError, nearest
from launcher.models import timm
from launcher.models.avatar_cnn import AvatarCnn
from launcher.models.head import AUXILIARY, NO_AUXILIARY, find_classifiers, remove_auxiliary, replace_layer
from launcher.models.lenet import LeNet
from launcher.models.weights import ADVICE, load_weights, read_weights
from launcher.recipe.backbone import Backbone, Head
from launcher.recipe.fields import with_values
from launcher.recipe.problem import Problem
from launcher.text import one_line

IMAGENET_CLASSES = 1000

OWN: dict[str, tuple[Callable[[int], nn.Module], int]] = {"avatar_cnn": (AvatarCnn, 1), "lenet": (LeNet, 10)}
"""Networks of this package, and their original number of outputs."""


@dataclass(frozen=True)
class Network:
    """A model, and the name of its module that is the head."""

    model: nn.Module
    head_name: str
    twin_names: tuple[str, ...] = ()
    """More heads of the same form, in networks that average several."""
    auxiliary_names: tuple[str, ...] = ()
    """Auxiliary classifiers that train."""
    auxiliary_weight: float = 0.0
    """Weight of the loss of each auxiliary output; in training the model returns (outputs, auxiliary outputs, ...)."""

    @property
    def head(self) -> nn.Module:
        return self.model.get_submodule(self.head_name)

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of all classifiers: the head, its twins, auxiliary ones."""
        return (self.head_name, *self.twin_names, *self.auxiliary_names)


def model_names() -> list[str]:
    """Valid values of `backbone.name`, without timm's."""
    return [*OWN, *torchvision.models.list_models(module=torchvision.models)]


def check_backbone(backbone: Backbone) -> list[Problem]:
    """Problems with the name and the weights. Downloads and builds nothing."""
    problem = _check_name(backbone) or _check_weights(backbone)
    return [] if problem is None else [problem]


def _check_name(backbone: Backbone) -> Problem | None:
    name, names = backbone.name, model_names()
    if name.startswith(timm.PREFIX):
        return timm.check_timm(name, backbone.weights if backbone.weights_file is None else None)
    if name in names:
        return None
    hint = f"; did you mean '{timm.PREFIX}{name}'?" if timm.is_timm_model(name) else nearest(name, names)
    return Problem("backbone.name", f"no such model '{name}'{hint}")


def _check_weights(backbone: Backbone) -> Problem | None:
    name, weights, file = backbone.name, backbone.weights, backbone.weights_file
    if file is not None:
        return None if Path(file).is_file() else Problem("backbone.weights", f"no such file: {file}")
    if name in OWN or name.startswith(timm.PREFIX) or weights == "none":
        return None
    entries = list(torchvision.models.get_model_weights(name).__members__)
    if weights in entries:
        return None
    return Problem("backbone.weights", f"{name} has no weights '{weights}'{nearest(weights, [*entries, 'none'])}")


def build_trained(backbone: Backbone, num_outputs: int) -> Network:
    """The network of `build_model`, for weights from a checkpoint: on the CPU, with random weights. Downloads nothing.

    A head that was kept may come from a file with another number of outputs than the original network.
    """
    backbone = with_values(backbone, {"weights": "none"})
    if backbone.head == "keep":
        try:
            return build_model(backbone, num_outputs)
        except UserError:
            backbone = with_values(backbone, {"head": {}})
    return build_model(backbone, num_outputs)


def build_model(backbone: Backbone, num_outputs: int) -> Network:
    """The named network with `num_outputs` outputs, on the CPU.

    Raise UserError when weights cannot be downloaded or do not fit.
    """
    model, num_original = _build_original(backbone)
    auxiliary = AUXILIARY.get(backbone.name, NO_AUXILIARY)
    if backbone.name in AUXILIARY and backbone.freeze != "none":
        remove_auxiliary(model, auxiliary)
        auxiliary = NO_AUXILIARY
    names = find_classifiers(model, num_original, but=auxiliary.last_names)
    if not names:
        raise UserError(f"backbone.name: {backbone.name} has no classifier that could be replaced")
    file = None if backbone.weights_file is None else Path(backbone.weights_file)
    tensors = {} if file is None else read_weights(file, model.state_dict())
    head = backbone.head
    if head == "keep":
        kept = tensors.get(f"{names[-1]}.weight")
        num_kept = num_original if kept is None else len(kept)
        if num_kept != num_outputs:
            raise UserError(
                f"backbone.head: keep has {num_kept} outputs, data and loss need {num_outputs}; "
                "leave backbone.head out for a new one"
            )
    if head != "keep" or num_kept != num_original:
        for name in names:
            replace_layer(model, name, Head() if head == "keep" else head, num_outputs)
        for name in auxiliary.last_names:
            replace_layer(model, name, Head(), num_outputs)
    if file is not None:
        new = [] if head == "keep" else [*names, *auxiliary.last_names]
        load_weights(model, tensors, [*new, *_one_sided(backbone.name, model, tensors)], file)
    return Network(model, names[-1], tuple(names[:-1]), auxiliary.names, auxiliary.weight)


def build_shapes(backbone: Backbone) -> Network:
    """The network with two outputs, without memory for its weights when it can be built so."""
    try:
        with torch.device("meta"):
            return build_model(backbone, 2)
    except (RuntimeError, NotImplementedError):  # RegNet computes with shapes as tensors
        return build_model(backbone, 2)


def check_sizes(network: Network, sizes: Iterable[tuple[int, int]]) -> None:
    """Raise UserError when the network, on the CPU, cannot take images of one of these (height, width)."""
    network.model.eval()
    for height, width in set(sizes):
        try:
            with torch.inference_mode():
                network.model(torch.zeros(1, 3, height, width))
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = one_line(error)
            raise UserError(
                f"augment: the backbone does not take {height} x {width} pixels ({reason}); crop or resize to others"
            ) from None


def _one_sided(name: str, model: nn.Module, tensors: dict[str, Tensor]) -> list[str]:
    """Auxiliary classifiers that only the file or only the network has."""
    found = {key.partition(".")[0] for key in tensors} & {key.partition(".")[0] for key in model.state_dict()}
    return [auxiliary for auxiliary in AUXILIARY.get(name, NO_AUXILIARY).names if auxiliary not in found]


def _build_original(backbone: Backbone) -> tuple[nn.Module, int]:
    """The original network, and its number of outputs."""
    name, is_named = backbone.name, backbone.weights != "none" and backbone.weights_file is None
    if name in OWN:
        build, num_outputs = OWN[name]
        return build(num_outputs), num_outputs
    if name.startswith(timm.PREFIX):
        return timm.build_timm(name, pretrained=is_named, keep=backbone.head == "keep")
    if is_named:
        return _load_pretrained(backbone), IMAGENET_CLASSES
    # Without this option these networks warn; with pretrained weights they refuse it.
    options = {"init_weights": True} if name in AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, **options), IMAGENET_CLASSES


def _load_pretrained(backbone: Backbone) -> nn.Module:
    weights = torchvision.models.get_model_weights(backbone.name)[backbone.weights]
    options = {"aux_logits": True} if backbone.name in AUXILIARY else {}
    try:
        with warnings.catch_warnings():
            # For GoogLeNet's auxiliary classifiers: "NOT pretrained, so make sure to train them", as they are here.
            warnings.filterwarnings("ignore", message="auxiliary heads", category=UserWarning)
            model: nn.Module = torchvision.models.get_model(backbone.name, weights=weights, **options)
    except (OSError, RuntimeError) as error:  # RuntimeError: a wrong hash
        raise UserError(
            f"backbone.weights: {backbone.name} {backbone.weights} cannot be downloaded ({error}); {ADVICE}"
        ) from None
    return model
