"""State of the fp16 loss scaler, without waiting for the GPU that holds it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

ON_DEVICE = ("_scale", "_growth_tracker")
"""The tensors of a GradScaler, which `state_dict` reads."""

ScalerState = dict[str, Any]


def copy_scaler(scaler: GradScaler) -> Callable[[], ScalerState]:
    """Begin to copy the scaler as it is now. The function returned gives the state, once the GPU has copied."""
    copied = object.__new__(type(scaler))  # `copy.copy` would read the scale
    vars(copied).update(vars(scaler))
    for name in ON_DEVICE:
        tensor: Tensor | None = getattr(scaler, name)
        if tensor is not None:
            memory = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            setattr(copied, name, memory.copy_(tensor, non_blocking=True))
    return copied.state_dict
