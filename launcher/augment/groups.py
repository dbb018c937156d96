"""Different operations on the images of one batch: each is applied to those that drew it, and only to them.

Shapes: B images of the batch, G of them in a group. Values of an image are a number or a row, float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from launcher.augment.arrays import BOOL, FLOAT64, INT64, Parameters

Grouped = Callable[[Tensor, FLOAT64], Tensor]
"""(images_GCHW, their values) -> images_GCHW, new ones."""


PAGEABLE_BYTES = 2**16
"""From ordinary memory at most so much goes to a GPU inside the command itself. For more the host may wait until the
GPU has done all that was queued ("API synchronization behavior" of the CUDA runtime)."""


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, without waiting for it: more than PAGEABLE_BYTES go through pinned memory."""
    if device.type == "cuda" and not tensor.is_cuda and tensor.nbytes > PAGEABLE_BYTES:
        tensor = tensor.pin_memory()  # torch keeps these blocks, and reuses one when its copy is done
    return tensor.to(device, non_blocking=True)


def on_device(values: Parameters, images: Tensor) -> Tensor:
    """The values on the images' device, sent as by `send`."""
    return send(torch.tensor(values), images.device)


def per_image(function: Callable[[Tensor, Tensor], Tensor]) -> Grouped:
    """A function of (images_GCHW, values_G on their device, float32) as a Grouped."""
    return lambda images_GCHW, values: function(images_GCHW, on_device(values.astype(np.float32), images_GCHW))


def apply_groups(images_BCHW: Tensor, choices_B: INT64, values_B: FLOAT64, functions: Sequence[Grouped]) -> Tensor:
    """`functions[choice]` on the images that chose it; images that chose none of them, such as -1, stay as they are.

    Groups are found on the CPU, so that no GPU is waited for. The given images are not written to.
    """
    groups = [(function, np.flatnonzero(choices_B == choice)) for choice, function in enumerate(functions)]
    groups = [(function, rows_G) for function, rows_G in groups if len(rows_G)]
    if not groups:
        return images_BCHW
    if len(groups) == 1 and len(groups[0][1]) == len(choices_B):
        return groups[0][0](images_BCHW, values_B)
    results_BCHW = images_BCHW.clone()
    for function, rows_G in groups:
        index_G = on_device(rows_G, images_BCHW)
        results_BCHW.index_copy_(0, index_G, function(images_BCHW.index_select(0, index_G), values_B[rows_G]))
    return results_BCHW


def apply_where(images_BCHW: Tensor, chosen_B: BOOL, values_B: FLOAT64, function: Grouped) -> Tensor:
    """The function on the chosen images; the others stay as they are."""
    return apply_groups(images_BCHW, np.where(chosen_B, 0, -1), values_B, [function])
