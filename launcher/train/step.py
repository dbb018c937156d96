"""One optimizer step: read, augment, forward, backward, exchange, step. B batch, O outputs of the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from launcher.augment.parameter_hash import Hashes
from launcher.data.feed import Examples
from launcher.data.order import Ids
from launcher.errors import UserError
from launcher.models.optim.schedule import lr_factor
from launcher.run.pictures import GRID_IMAGES, write_grid
from launcher.train.context import Training
from launcher.train.frozen import build_feeds
from launcher.train.nonfinite import Guard
from launcher.train.stage import Learner
from launcher.train.step_result import StepResult


def train_work(t: Training, steps: range) -> Iterator[tuple[int, Ids]]:
    """Epoch and ids of every micro batch of this process."""
    for step in steps:
        for ids_B in t.order.micro_batch_ids(step, t.strategy.world.rank):
            yield t.plan.epoch(step), ids_B


def train_step(t: Training, learner: Learner, batches: Iterator[Examples], step: int, guard: Guard) -> StepResult:
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
    result = StepResult(step, torch.stack(losses).mean() if len(losses) > 1 else losses[0], ids, drawn)
    result = replace(result, is_taken=_take_step(t, result, guard))
    t.watch.images += plan.global_batch
    cost = feed.times.since(before)
    t.watch.wait_s += cost.wait_s
    t.costs.add(cost)
    return result


def _mean_of_counted(losses_B: Tensor, examples: Examples) -> Tensor:
    """The figure to write down; the gradient's mean is over all, so that each image counts the same in every batch."""
    return losses_B.sum() / examples.weights_B.sum().clamp(min=1)


def _take_step(t: Training, result: StepResult, guard: Guard) -> bool:
    """False when it is left out."""
    if guard.must_leave_out(result):
        t.optimizer.zero_grad()
        return False
    if not t.strategy.step(t.optimizer, t.recipe.optim.clip_norm, t.network.model.parameters()):
        message = "fp16 overflow: optimizer step left out"
        t.journal.write("event", result.step, t.plan.epoch(result.step) + 1, name="overflow", message=message)
    elif t.ema is not None:
        t.ema.update_parameters(t.network.model)
    return True


def learning_rate(t: Training, step: int) -> float:
    """The head's; those of other parts are in proportion."""
    return t.recipe.optim.lr * lr_factor(t.recipe.schedule, t.plan, step)


def _keep_picture(t: Training, examples: Examples) -> None:
    if not t.strategy.world.is_first:
        return
    picture = t.run.pictures / "augmented.png"
    try:
        images_BCHW = _read_images(t, examples.ids_B) if examples.images_BCHW is None else examples.images_BCHW
    except UserError as error:  # features are enough to train: only the picture is lacking
        message = f"{picture.name} could not be drawn: {error}"
        t.journal.write("event", 1, 1, name="note", message=message)
        t.console.say(f"note: {message}")
        return
    write_grid(images_BCHW, t.augment_train.mean, t.augment_train.std, picture)
    t.journal.write("event", 1, 1, name="picture", picture=picture.stem)


def _read_images(t: Training, ids_B: Ids) -> Tensor:
    """images_BCHW of the first batch, as many as the picture has, where features were read in their place."""
    [examples] = build_feeds(t, engine=None)["train"].batches([(t.plan.epoch(1), ids_B[:GRID_IMAGES])])
    assert examples.images_BCHW is not None
    return examples.images_BCHW
