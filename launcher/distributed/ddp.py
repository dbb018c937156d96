"""DistributedDataParallel: the exchange of gradients, and what must hold of a network before it."""

from __future__ import annotations

import warnings

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel


def wrap_ddp(model: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Parameters and buffers become those of rank 0, now: later each rank has its own buffers.

    DDP's own broadcast of them would make each forward pass wait for rank 0, and hide which rank is slow.
    """
    # Said of 1 x 1 convolutions in channels_last, whose strides are ambiguous but equal (pytorch #47163).
    warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
    device_ids = [device.index] if device.type == "cuda" else None
    wrapped = DistributedDataParallel(model, device_ids=device_ids, gradient_as_bucket_view=True)
    wrapped.broadcast_buffers = False
    return wrapped


def has_plain_batchnorm(model: nn.Module) -> bool:
    """Whether some BatchNorm has statistics of its rank alone."""
    return any(isinstance(each, _BatchNorm) and not isinstance(each, nn.SyncBatchNorm) for each in model.modules())
