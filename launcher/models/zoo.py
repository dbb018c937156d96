"""A backbone by name, with its classifier replaced by the recipe's head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torchvision
from torch import nn

from launcher.errors import UserError, nearest
from launcher.models.lenet import LeNet
from launcher.recipe.contradictions import Problem
from launcher.recipe.schema import Backbone, Head

IMAGENET_CLASSES = 1000

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}

RANDOM_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"init_weights": True},
    "inception_v3": {"init_weights": True},
}
"""Without pretrained weights these warn unless they are told how to begin; with them they refuse to be told."""

AUXILIARY = ("aux1", "aux2", "AuxLogits")
"""Classifiers that googlenet and inception_v3 have beside the last one, for training only."""


@dataclass(frozen=True)
class Network:
    """A model and the name of the module in it that is the new head."""

    model: nn.Module
    head_name: str

    @property
    def head(self) -> nn.Module:
        return self.model.get_submodule(self.head_name)


def model_names() -> list[str]:
    """Every name that `backbone.name` may be."""
    return ["lenet", *torchvision.models.list_models(module=torchvision.models)]


def check_backbone(backbone: Backbone) -> list[Problem]:
    """Names that do not exist. Downloads nothing."""
    names = model_names()
    if backbone.name not in names:
        what = f"no such model '{backbone.name}'{nearest(backbone.name, names)}"
        return [Problem("backbone.name", what, ("backbone.name",))]
    if backbone.name == "lenet" or backbone.weights == "none":
        return []
    entries = list(torchvision.models.get_model_weights(backbone.name).__members__)
    if backbone.weights in entries:
        return []
    what = f"{backbone.name} has no weights '{backbone.weights}'{nearest(backbone.weights, [*entries, 'none'])}"
    return [Problem("backbone.weights", what, ("backbone.weights",))]


def build_model(backbone: Backbone, num_outputs: int) -> Network:
    """The named network with a new head of `num_outputs`, on the CPU.

    Raise UserError when pretrained weights can be neither found nor downloaded.
    """
    if backbone.name == "lenet":
        return replace_head(LeNet(IMAGENET_CLASSES), backbone.head, num_outputs)
    model = _load_pretrained(backbone) if backbone.weights != "none" else _start_random(backbone.name)
    _remove_auxiliary(model)
    return replace_head(model, backbone.head, num_outputs)


def _start_random(name: str) -> nn.Module:
    model: nn.Module = torchvision.models.get_model(name, weights=None, **RANDOM_OPTIONS.get(name, {}))
    return model


def _load_pretrained(backbone: Backbone) -> nn.Module:
    weights = torchvision.models.get_model_weights(backbone.name)[backbone.weights]
    try:
        model: nn.Module = torchvision.models.get_model(backbone.name, weights=weights)
    except (OSError, RuntimeError) as error:  # RuntimeError: what came does not have the hash that torchvision expects
        raise UserError(
            f"backbone.weights: {backbone.name} {backbone.weights} cannot be downloaded ({error}); "
            "run once where there is a network, or set backbone.weights=none"
        ) from None
    return model


def _remove_auxiliary(model: nn.Module) -> None:
    """Their outputs are not trained here, and DDP would wait for their gradients."""
    for name in AUXILIARY:
        if hasattr(model, name):
            setattr(model, name, None)
            model.aux_logits = False  # type: ignore[assignment]


def replace_head(model: nn.Module, head: Head, num_outputs: int) -> Network:
    """Put the recipe's head where the last layer with ImageNet's 1,000 outputs is."""
    name, last = next(
        (name, module)
        for name, module in reversed(list(model.named_modules()))
        if getattr(module, "out_features", getattr(module, "out_channels", None)) == IMAGENET_CLASSES
    )
    new: nn.Module
    if isinstance(last, nn.Conv2d):
        # SqueezeNet classifies with a 1 x 1 convolution and averages afterwards: the head does the same at every pixel.
        new = _build_head(head, last.in_channels, num_outputs, lambda i, o: nn.Conv2d(i, o, 1))
    else:
        assert isinstance(last, nn.Linear)
        new = _build_head(head, last.in_features, num_outputs, nn.Linear)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)
    return Network(model, name)


def _build_head(head: Head, num_inputs: int, num_outputs: int, layer: Any) -> nn.Module:
    """One plain layer, or hidden layers each followed by activation and dropout."""
    if not head.hidden and not head.dropout:
        last: nn.Module = layer(num_inputs, num_outputs)
        return last
    modules: list[nn.Module] = []
    for width in head.hidden:
        modules += [layer(num_inputs, width), ACTIVATIONS[head.activation]()]
        if head.dropout:
            modules.append(nn.Dropout(head.dropout))
        num_inputs = width
    if not head.hidden:
        modules.append(nn.Dropout(head.dropout))
    return nn.Sequential(*modules, layer(num_inputs, num_outputs))
