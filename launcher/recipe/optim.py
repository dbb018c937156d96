"""The `optim` and `schedule` sections: how the weights and the learning rate move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.duration import Duration
from launcher.recipe.fields import Fraction, Interval, Length, NotNegative, Positive, Section


class Optimizer(Section):
    """What every optimizer has."""

    lr: Positive
    """Learning rate at the schedule's peak. Never scaled behind your back."""
    backbone_lr: Positive | None = None
    """Learning rate of everything but the head. null: lr."""
    layer_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Each block's learning rate is this times that of the block after it; the head has lr. null: one rate for all."""
    weight_decay: NotNegative = 0.0
    """Not applied to biases and normalisation layers."""
    clip_norm: Positive | None = None
    """Largest L2 norm of all gradients together. null: not clipped."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Keep a moving average of the weights with this decay per step, and evaluate that. null: none."""


class Sgd(Optimizer):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    """Which optimizer."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """0: none."""
    nesterov: bool = False
    """Look ahead by the momentum."""


class Adam(Optimizer):
    """`adam` adds weight decay to the gradient; `adamw` decays the weights themselves."""

    name: Literal["adam", "adamw"]
    """Which optimizer."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the gradient's mean."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the gradient's square."""
    eps: Positive = 1e-8
    """Added to the denominator."""


Optim = Annotated[Sgd | Adam, Field(discriminator="name")]


class Constant(Section):
    """One learning rate."""

    name: Literal["constant"]
    """Which schedule."""
    warmup: Length = Duration(0, "ep")
    """Linear rise from 0 over this length."""


class StepDecay(Section):
    """Multiply by `gamma` at regular intervals."""

    name: Literal["step"]
    """Which schedule."""
    every: Interval
    """Length between two drops."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Factor at each drop."""
    warmup: Length = Duration(0, "ep")
    """Linear rise from 0 over this length."""


class Cosine(Section):
    """Fall along half a cosine to `end_factor`."""

    name: Literal["cosine"]
    """Which schedule."""
    end_factor: Fraction = 0.0
    """Share of the learning rate at the end."""
    warmup: Length = Duration(0, "ep")
    """Linear rise from 0 over this length."""


class OneCycle(Section):
    """Rise along a cosine from lr / 25, then fall to lr / 250,000 (Smith, Topin 2018); momentum stays as it is."""

    name: Literal["onecycle"]
    """Which schedule."""
    warmup: Interval | None = None
    """Length of the rise. null: 30 % of the training."""


Schedule = Annotated[Constant | StepDecay | Cosine | OneCycle, Field(discriminator="name")]
