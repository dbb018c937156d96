"""Finding a network's classifier, and replacing it by a head."""

from __future__ import annotations

from collections.abc import Callable, Collection

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
    old, new = model.get_submodule(name), None
    if isinstance(old, nn.Conv2d):
        # SqueezeNet classifies each pixel with a 1 x 1 convolution and averages afterwards: so does the head.
        new = build_head(head, old.in_channels, num_outputs, lambda i, o: nn.Conv2d(i, o, 1))
    else:
        assert isinstance(old, nn.Linear)
        new = build_head(head, old.in_features, num_outputs, nn.Linear)
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, new)


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
