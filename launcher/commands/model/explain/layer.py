"""Where in a network grad-CAM looks: the last map of features that still has places."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn

from launcher.errors import UserError

_POOLS = (
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    *(nn.FractionalMaxPool2d, nn.LPPool2d),
)


@torch.no_grad()
def find_map_layer(model: nn.Module, image_1CHW: Tensor) -> str:
    """Name of the module that gives the last map [1, channels, height, width] of more than one place.

    Not a pooling, not one that is called several times, nor a branch of a block that leaves one place where there is
    another. Maps before tokens, [1, tokens, channels], do not count. Raise UserError when there is none.
    """
    calls: Counter[str] = Counter()
    maps: list[str] = []
    without_places: list[str] = []

    def watch(name: str, module: nn.Module) -> None:
        def note(_module: nn.Module, _inputs: object, output: object) -> None:
            calls[name] += 1
            if not isinstance(output, Tensor):
                return
            if output.dim() == 3:
                maps.clear()
            elif output.dim() == 4 and not isinstance(module, _POOLS):
                (maps if output[0, 0].numel() > 1 else without_places).append(name)

        hooks.append(module.register_forward_hook(note))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if name:
            watch(name, module)
    try:
        model(image_1CHW)
    finally:
        for hook in hooks:
            hook.remove()
    once = [name for name in maps if calls[name] == 1]
    if not once:
        raise UserError(
            "--method gradcam: this network has no map of features before its pooling; take occlusion, gradient-shap "
            "or integrated-gradients"
        )
    blocks = tuple(f"{name}." for name in without_places)
    return ([name for name in once if not name.startswith(blocks)] or once)[-1]
