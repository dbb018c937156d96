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

# Auxiliary classifiers are left out: their outputs are not trained here, and DDP would wait for their gradients.
CONSTRUCTOR_OPTIONS: dict[str, dict[str, Any]] = {
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


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
    entries = [*torchvision.models.get_model_weights(backbone.name).__members__, "DEFAULT"]
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
    options = CONSTRUCTOR_OPTIONS.get(backbone.name, {})
    weights = (
        None if backbone.weights == "none" else torchvision.models.get_model_weights(backbone.name)[backbone.weights]
    )
    try:
        model = torchvision.models.get_model(backbone.name, weights=weights, **options)
    except OSError as error:
        raise UserError(
            f"backbone.weights: {backbone.name} {backbone.weights} cannot be downloaded ({error}); "
            "run once where there is a network, or set backbone.weights=none"
        ) from None
    return replace_head(model, backbone.head, num_outputs)


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
    dropout: list[nn.Module] = [nn.Dropout(head.dropout)] if head.dropout else []
    if not head.hidden and not dropout:
        last: nn.Module = layer(num_inputs, num_outputs)
        return last
    modules = [] if head.hidden else [*dropout]
    for width in head.hidden:
        modules += [layer(num_inputs, width), ACTIVATIONS[head.activation](), *dropout]
        num_inputs = width
    return nn.Sequential(*modules, layer(num_inputs, num_outputs))
