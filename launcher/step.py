"""One optimizer step: read, augment, forward, backward, exchange, step; and losses that are no number.

B batch, O outputs of the network.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from launcher.augment.witness import Hashes
from launcher.data.order import Ids
from launcher.errors import UserError
from launcher.feed import Examples
from launcher.learner import Learner
from launcher.log.pictures import write_grid
from launcher.optim.schedule import lr_factor
from launcher.training import Training

MAX_IN_A_ROW = 10
"""Steps left out one after the other: then the weights are beyond help."""
_NAMED = 8
"""Samples that a message names."""
ADVICE = "lower optim.lr, or add schedule.warmup or optim.clip_norm, with --allow-change or --fresh"


@dataclass(frozen=True, slots=True)
class Done:
    """What a step leaves to be written down, of this rank. `loss`: the mean over its images, not waited for."""

    step: int
    loss: Tensor
    ids: list[Ids]
    drawn: list[Hashes]
    """A hash of what was done to each image."""
    is_taken: bool = True
    """False where it was left out, on every process."""

    @property
    def samples(self) -> str:
        """`samples 3, 17, 4 and 29 more`."""
        ids = np.concatenate(self.ids).tolist()
        more = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
        return f"samples {', '.join(map(str, ids[:_NAMED]))}{more}"


class Guard:
    """Every step is taken; losses that are no number are found when they are written down."""

    def remember(self) -> None:
        """Before a step."""

    def must_leave_out(self, done: Done) -> bool:
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

    def must_leave_out(self, done: Done) -> bool:
        """Raise UserError when it has been too many in a row."""
        t = self._t
        is_mine = not bool(torch.isfinite(done.loss))
        is_bad = is_mine or not self._has_finite_gradients()
        if not bool(t.strategy.sum(torch.tensor(float(is_bad), device=t.strategy.device))):
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        where = describe_ranks(t, done, is_mine) or "in the gradients"
        message = f"step {done.step} left out: its loss is no number {where}"
        t.journal.write("event", done.step, t.plan.epoch(done.step) + 1, name="nonfinite", message=message)
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


def describe_ranks(t: Training, done: Done, is_mine: bool) -> str:
    """`on rank 3 (samples 3, 17)`, of the first rank that says so; called by every process."""
    told = t.strategy.gather(done.samples if is_mine else None)
    return next((f"on rank {rank} ({samples})" for rank, samples in enumerate(told) if samples is not None), "")


def train_work(t: Training, steps: range) -> Iterator[tuple[int, Ids]]:
    """Epoch and ids of every micro batch of this process."""
    for step in steps:
        for ids_B in t.order.micro_batch_ids(step, t.strategy.world.rank):
            yield t.plan.epoch(step), ids_B


def train_step(t: Training, learner: Learner, batches: Iterator[Examples], step: int, guard: Guard) -> Done:
    """One optimizer step of every process. Raise UserError when too many had to be left out."""
    plan, pulse = t.plan, t.strategy.pulse
    for group in t.optimizer.param_groups:
        group["lr"] = learning_rate(t, step) * group["lr_scale"]
    losses: list[Tensor] = []
    ids: list[Ids] = []
    drawn: list[Hashes] = []
    feed = learner.feeds["train"]
    before = replace(feed.times)
    can_leave_out = t.recipe.data.on_error == "skip"
    guard.remember()
    for i in range(plan.accumulation):
        pulse.at = ("data", step, False)
        examples = next(batches)
        if step == 1 and i == 0:
            _keep_picture(t, examples)
        with t.strategy.exchange_gradients(now=i == plan.accumulation - 1):
            pulse.at = ("forward", step, False)
            outputs_BO = learner.wrapped(*examples.inputs)
            losses_B = t.loss_train(outputs_BO, examples.targets)
            if can_leave_out:
                losses_B = losses_B * examples.weights_B
            loss = losses_B.mean()
            pulse.at = ("backward", step, False)
            t.strategy.backward(loss / plan.accumulation if plan.accumulation > 1 else loss)
        losses.append(_mean_of_counted(losses_B.detach(), examples) if can_leave_out else loss.detach())
        ids.append(examples.ids_B)
        drawn.append(examples.drawn_BD)
    done = Done(step, torch.stack(losses).mean() if len(losses) > 1 else losses[0], ids, drawn)
    done = replace(done, is_taken=_take_step(t, done, guard))
    t.watch.images += plan.global_batch
    cost = feed.times.since(before)
    t.watch.wait_s += cost.wait_s
    t.costs.add(cost)
    return done


def _mean_of_counted(losses_B: Tensor, examples: Examples) -> Tensor:
    """The figure to write down; the gradient's mean is over all, so that each image counts the same in every batch."""
    return losses_B.sum() / examples.weights_B.sum().clamp(min=1)


def _take_step(t: Training, done: Done, guard: Guard) -> bool:
    """False when it is left out."""
    if guard.must_leave_out(done):
        t.optimizer.zero_grad()
        return False
    if not t.strategy.step(t.optimizer, t.recipe.optim.clip_norm, t.network.model.parameters()):
        message = "fp16 overflow: optimizer step left out"
        t.journal.write("event", done.step, t.plan.epoch(done.step) + 1, name="overflow", message=message)
    elif t.ema is not None:
        t.ema.update_parameters(t.network.model)
    return True


def learning_rate(t: Training, step: int) -> float:
    """The head's; those of other parts are in proportion."""
    return t.recipe.optim.lr * lr_factor(t.recipe.schedule, t.plan, step)


def _keep_picture(t: Training, examples: Examples) -> None:
    if t.strategy.world.is_first and examples.images_BCHW is not None:
        picture = t.run.pictures / "augmented.png"
        write_grid(examples.images_BCHW, t.augment_train.mean, t.augment_train.std, picture)
        t.journal.write("event", 1, 1, name="picture", picture=picture.stem)
