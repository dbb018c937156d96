"""The learning rate as a function of the optimizer step: there is no scheduler state to save."""

from __future__ import annotations

import math

from launcher.recipe.optim import Cosine, OneCycle, Schedule, StepDecay
from launcher.recipe.plan import Plan
from launcher.recipe.schema import Recipe

ONECYCLE_START = 25.0
ONECYCLE_END = 25.0 * 1e4


def learning_rate(recipe: Recipe, plan: Plan, step: int) -> float:
    """Learning rate of the head in step `step`; those of other parts are in proportion to it."""
    return recipe.optim.lr * lr_factor(recipe.schedule, plan, step)


def lr_factor(schedule: Schedule, plan: Plan, step: int) -> float:
    """Factor on the recipe's learning rate in step `step`, counted from 1. Equal to torch's schedulers per step."""
    done = step - 1
    if isinstance(schedule, OneCycle):
        return _onecycle(done, plan.warmup_steps, plan.total_steps)
    if done < plan.warmup_steps:
        return step / plan.warmup_steps
    if isinstance(schedule, StepDecay):
        return float(schedule.gamma ** (done // plan.drop_every_steps))
    if isinstance(schedule, Cosine):
        progress = (done - plan.warmup_steps) / (plan.total_steps - plan.warmup_steps)
        return _cosine(1.0, schedule.end_factor, progress)
    return 1.0


def _onecycle(done: int, warmup_steps: int, total_steps: int) -> float:
    top = max(warmup_steps - 1, 0)
    if done <= top:
        return _cosine(1 / ONECYCLE_START, 1.0, done / top if top else 1.0)
    return _cosine(1.0, 1 / ONECYCLE_END, (done - top) / (total_steps - 1 - top))


def _cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
