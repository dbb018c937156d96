"""Classifiers: finding a network's own, replacing it by a head; auxiliary ones of GoogLeNet and Inception v3."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from torch import nn

from launcher.recipe.backbone import Head

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU, "tanh": nn.Tanh}


def find_classifiers(model: nn.Module, num_outputs: int, but: Collection[str] = ()) -> list[str]:
    """Names of the layers with `num_outputs` outputs, the last of the network last.

    More than one when a network averages several: timm's distilled LeViT, DeiT, RepViT, EfficientFormer, and VOLO.
    """
    return [name for name, module in model.named_modules() if _count_outputs(module) == num_outputs and name not in but]


def _count_outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    return module.out_channels if isinstance(module, nn.Conv2d) else None


def replace_layer(model: nn.Module, name: str, head: Head, num_outputs: int) -> None:
    """Replace the linear layer or convolution `name` by `head`."""
    old = model.get_submodule(name)
    if isinstance(old, nn.Conv2d):
        # SqueezeNet classifies each pixel with a 1 x 1 convolution and averages afterwards: so does the head.
        new = build_head(head, old.in_channels, num_outputs, lambda i, o: nn.Conv2d(i, o, 1))
    else:
        assert isinstance(old, nn.Linear)
        new = build_head(head, old.in_features, num_outputs, nn.Linear)
    model.set_submodule(name, new)


def build_head(head: Head, num_inputs: int, num_outputs: int, layer: Callable[[int, int], nn.Module]) -> nn.Module:
    """One layer, or hidden layers, each followed by activation and dropout, before it."""
    if not head.hidden and not head.dropout:
        return layer(num_inputs, num_outputs)
    modules: list[nn.Module] = []
    for width in head.hidden:
        modules += [layer(num_inputs, width), ACTIVATIONS[head.activation]()]
        if head.dropout:
            modules.append(nn.Dropout(head.dropout))
        num_inputs = width
    if not head.hidden:
        modules.append(nn.Dropout(head.dropout))
    return nn.Sequential(*modules, layer(num_inputs, num_outputs))


@dataclass(frozen=True)
class Auxiliary:
    """Classifiers that help training and are no part of evaluation.

    `last_names`: last layer of each. `weight`: of the loss of each, beside the main loss.
    """

    last_names: tuple[str, ...]
    weight: float

    @property
    def names(self) -> tuple[str, ...]:
        """The whole classifiers."""
        return tuple(name.partition(".")[0] for name in self.last_names)


AUXILIARY: dict[str, Auxiliary] = {
    # Szegedy et al. 2014, https://arxiv.org/abs/1409.4842, section 5: "weighted by 0.3".
    "googlenet": Auxiliary(("aux1.fc2", "aux2.fc2"), 0.3),
    # https://arxiv.org/abs/1512.00567 gives no number; 0.4 is from its authors' code (tensorflow/models,
    # slim/train_image_classifier.py) and of PyTorch's fine-tuning tutorial.
    "inception_v3": Auxiliary(("AuxLogits.fc",), 0.4),
}

NO_AUXILIARY = Auxiliary((), 0.0)


def remove_auxiliary(model: nn.Module, auxiliary: Auxiliary) -> None:
    """Remove them, when layers are frozen: their gradients are for those."""
    for name in auxiliary.names:
        setattr(model, name, None)
    model.aux_logits = False  # type: ignore[assignment]
