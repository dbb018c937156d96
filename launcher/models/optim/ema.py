"""The exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

import copy
from itertools import chain

import torch
from torch import Tensor, nn


class MovingAverage:
    """Average of a network's weights and buffers, kept in `module`, a copy of the network that is evaluated.

    Whole numbers are those of the network. As torch's AveragedModel with get_ema_multi_avg_fn, which makes the host
    wait for a GPU twice a step, and launches four kernels for each whole number.
    `model`: on its device, in its final form; later its tensors may be changed in place, but not replaced.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(model)
        self.n_averaged = 0
        """Updates so far. The first is a copy."""
        self._decay = decay
        averages, currents = _tensors(self.module), _tensors(model)
        pairs = list(zip(averages, currents, strict=True))
        self._averages, self._currents = _unzip([pair for pair in pairs if pair[0].is_floating_point()])
        self._copies, self._originals = _unzip([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self) -> None:
        """Called after each step of the optimizer. The host does not wait."""
        if self.n_averaged == 0:
            torch._foreach_copy_(self._averages, self._currents)
        else:
            torch._foreach_lerp_(self._averages, self._currents, 1 - self._decay)
        if self._copies:
            torch._foreach_copy_(self._copies, self._originals)
        self.n_averaged += 1


def _tensors(model: nn.Module) -> list[Tensor]:
    return list(chain(model.parameters(), model.buffers()))


def _unzip(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [first for first, _ in pairs], [second for _, second in pairs]
