"""The layer for grad-CAM: the last one whose output is a feature map of more than one position."""

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
    """Name of the module with the last output [1, channels, height, width] of more than one position.

    Leaves out poolings, modules called several times, and branches of a block that reduces to one position elsewhere.
    Maps before tokens, [1, tokens, channels], do not count. Raise UserError when there is none.
    """
    calls: Counter[str] = Counter()
    maps: list[str] = []
    single: list[str] = []

    def hook_module(name: str, module: nn.Module) -> None:
        def record(_module: nn.Module, _inputs: object, output: object) -> None:
            calls[name] += 1
            if not isinstance(output, Tensor):
                return
            if output.dim() == 3:
                maps.clear()
            elif output.dim() == 4 and not isinstance(module, _POOLS):
                (maps if output[0, 0].numel() > 1 else single).append(name)

        hooks.append(module.register_forward_hook(record))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in model.named_modules():
        if name:
            hook_module(name, module)
    try:
        model(image_1CHW)
    finally:
        for hook in hooks:
            hook.remove()
    once = [name for name in maps if calls[name] == 1]
    if not once:
        raise UserError(
            "--method gradcam: this network has no feature map before its pooling; choose occlusion, gradient-shap or "
            "integrated-gradients"
        )
    blocks = tuple(f"{name}." for name in single)
    return ([name for name in once if not name.startswith(blocks)] or once)[-1]
