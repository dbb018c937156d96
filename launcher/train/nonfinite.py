"""Losses that are not finite: the step is skipped, or the next log record ends the run."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import nn

from launcher.distributed.strategy import Strategy
from launcher.errors import UserError
from launcher.run.run_log import RunLog
from launcher.train.step_log import ADVICE, StepResult, describe_ranks

MAX_IN_A_ROW = 10
"""Steps skipped one after the other: then the weights are beyond help."""


class NonfinitePolicy(Protocol):
    def before_step(self) -> None:
        """Keep what a forward pass changes, so that a skipped step changes nothing."""

    def should_skip_step(self, result: StepResult) -> bool:
        """Asked between backward and step; the same on every rank. Raise UserError after too many in a row."""


class FailOnNonfinite:
    """Skips no step, so that none waits for its loss: the loss that is logged next ends the run."""

    def before_step(self) -> None:
        pass

    def should_skip_step(self, result: StepResult) -> bool:
        return False


class SkipNonfinite:
    """Skips the steps whose loss or gradients are not finite. Each step waits for the answer."""

    def __init__(self, model: nn.Module, strategy: Strategy, log: RunLog) -> None:
        self._strategy = strategy
        self._log = log
        self._parameters = [each for each in model.parameters() if each.requires_grad]
        self._buffers = [each for each in model.buffers() if each.is_floating_point()]
        self._before = [each.clone() for each in self._buffers]
        self._in_a_row = 0

    def before_step(self) -> None:
        # A forward pass changes BatchNorm's statistics, which would never be finite again.
        if self._buffers:
            torch._foreach_copy_(self._before, self._buffers)

    def should_skip_step(self, result: StepResult) -> bool:
        comm = self._strategy.comm
        is_mine = not bool(torch.isfinite(result.loss))
        is_bad = is_mine or not self._has_finite_gradients()
        if not bool(comm.sum(torch.tensor(float(is_bad), device=self._strategy.device))):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        where = describe_ranks(comm, result, is_mine) or "in the gradients"
        message = f"skipped step {result.step}: its loss is not finite {where}"
        self._log.event(result.step, "step_skipped", message, show=True)
        if self._in_a_row >= MAX_IN_A_ROW:
            raise UserError(f"{message}; {MAX_IN_A_ROW} in a row: {ADVICE}")
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._before)
        return True

    def _has_finite_gradients(self) -> bool:
        if self._strategy.has_scaler:
            return True  # scaled ones may overflow, which the scaler handles
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))
