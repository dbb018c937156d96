"""Losses that are no number: the step is left out, or the run ends and says where."""

from __future__ import annotations

import math

import torch

from launcher.errors import UserError
from launcher.train.context import Training
from launcher.train.step_result import StepResult, describe_ranks

MAX_IN_A_ROW = 10
"""Steps left out one after the other: then the weights are beyond help."""
ADVICE = "lower optim.lr, or add schedule.warmup or optim.clip_norm, with --allow-change or --fresh"


class Guard:
    """Every step is taken; losses that are no number are found when they are written down."""

    def remember(self) -> None:
        """Before a step."""

    def must_leave_out(self, result: StepResult) -> bool:
        """Between backward and step: the same on every process."""
        return False


class LeaveOut(Guard):
    """Leaves out the steps whose loss or gradients are no number. Each step waits for the answer."""

    def __init__(self, t: Training) -> None:
        self._t = t
        self._parameters = [each for each in t.network.model.parameters() if each.requires_grad]
        self._buffers = [each for each in t.network.model.buffers() if each.is_floating_point()]
        self._before = [each.clone() for each in self._buffers]
        self._in_a_row = 0

    def remember(self) -> None:
        # A forward pass changes what BatchNorm remembers, and would leave it no number for ever.
        if self._buffers:
            torch._foreach_copy_(self._before, self._buffers)

    def must_leave_out(self, result: StepResult) -> bool:
        """Raise UserError when it has been too many in a row."""
        t = self._t
        is_mine = not bool(torch.isfinite(result.loss))
        is_bad = is_mine or not self._has_finite_gradients()
        if not bool(t.strategy.sum(torch.tensor(float(is_bad), device=t.strategy.device))):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        where = describe_ranks(t.strategy, result, is_mine) or "in the gradients"
        message = f"step {result.step} left out: its loss is no number {where}"
        t.journal.write("event", result.step, t.plan.epoch(result.step) + 1, name="nonfinite", message=message)
        t.console.say(message)
        if self._in_a_row >= MAX_IN_A_ROW:
            raise UserError(f"{message}; {MAX_IN_A_ROW} in a row: {ADVICE}")
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._before)
        return True

    def _has_finite_gradients(self) -> bool:
        if self._t.strategy.scaler_state is not None:
            return True  # scaled ones may overflow: the scaler sees to it
        gradients = [each.grad for each in self._parameters if each.grad is not None]
        return bool(torch.isfinite(torch.nn.utils.get_total_norm(gradients)))


def build_guard(t: Training) -> Guard:
    return LeaveOut(t) if t.recipe.train.on_nonfinite == "skip" else Guard()


def find_first_bad(t: Training, since: list[StepResult]) -> str:
    """`at step 812, epoch 3, on rank 3 (samples 3, 17)`. Called by every process."""
    mine = next((result for result in since if not bool(torch.isfinite(result.loss))), None)
    first = min(step for step in t.strategy.gather(math.inf if mine is None else mine.step))
    where = describe_ranks(t.strategy, mine or since[-1], mine is not None and mine.step == first)
    return f"at step {first}, epoch {t.plan.epoch(int(first)) + 1}, {where}"
