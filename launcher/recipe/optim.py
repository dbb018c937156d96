"""The `optim` and `schedule` sections: optimizer and learning rate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from launcher.recipe.duration import Duration
from launcher.recipe.fields import Fraction, Interval, Length, NotNegative, Positive, Section


class Optimizer(Section):
    """Options of every optimizer."""

    lr: Positive
    """Learning rate at the peak of the schedule; never scaled automatically."""
    backbone_lr: Positive | None = None
    """Learning rate of everything but the head. null: lr."""
    layer_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Ratio of each block's learning rate to that of the block after it; the head has lr. null: one rate for all."""
    weight_decay: NotNegative = 0.0
    """Weight decay, except of biases and normalization layers."""
    clip_norm: Positive | None = None
    """Largest L2 norm of all gradients together. null: not clipped."""
    ema_decay: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Decay per step of a moving average of the weights, which is evaluated instead of them. null: no average."""


class Sgd(Optimizer):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    """Name of the optimizer."""
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Momentum. 0: none."""
    nesterov: bool = False
    """Use Nesterov momentum."""


class Adam(Optimizer):
    """`adam` adds weight decay to the gradient; `adamw` decays the weights themselves."""

    name: Literal["adam", "adamw"]
    """Name of the optimizer."""
    beta1: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    """Decay of the gradient's mean."""
    beta2: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.999
    """Decay of the mean of the gradient's square."""
    eps: Positive = 1e-8
    """Term added to the denominator."""


Optim = Annotated[Sgd | Adam, Field(discriminator="name")]
Warmup = Annotated[Length, Field(description="Length of the linear rise from 0.")]


class Constant(Section):
    """A constant learning rate."""

    name: Literal["constant"]
    """Name of the schedule."""
    warmup: Warmup = Duration(0, "ep")


class StepDecay(Section):
    """Multiply the learning rate by `gamma` at regular intervals."""

    name: Literal["step"]
    """Name of the schedule."""
    every: Interval
    """Length between two drops."""
    gamma: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """Factor of each drop."""
    warmup: Warmup = Duration(0, "ep")


class Cosine(Section):
    """Fall along half a cosine to `end_factor`."""

    name: Literal["cosine"]
    """Name of the schedule."""
    end_factor: Fraction = 0.0
    """Learning rate at the end, as a fraction of the peak."""
    warmup: Warmup = Duration(0, "ep")


class OneCycle(Section):
    """Rise along a cosine from lr / 25, then fall to lr / 250,000 (Smith, Topin 2018); the momentum is constant."""

    name: Literal["onecycle"]
    """Name of the schedule."""
    warmup: Interval | None = None
    """Length of the rise. null: 30% of the training."""


Schedule = Annotated[Constant | StepDecay | Cosine | OneCycle, Field(discriminator="name")]
