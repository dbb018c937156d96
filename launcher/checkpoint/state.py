"""The state that a checkpoint holds.

checkpoints/step-00001234/model.safetensors       weights under the network's plain names
                          ema.safetensors         averaged weights, when the recipe keeps them
                          optimizer.safetensors   optimizer; its groups and the fp16 scaler are metadata of the file
                          rng.safetensors         random generators of all ranks
                          state.json              progress, W&B id, hash of the data, number of ranks
                          network.json            recipe, class names, normalisation: all that the weights need
                          hashes.json             sha256 of each of these files; written last
checkpoints/last -> step-00001234,  checkpoints/best -> step-00000987
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.distributed.strategy import Strategy
from launcher.metrics.names import Metrics
from launcher.models.optim.ema import MovingAverage
from launcher.models.zoo import Network


@dataclass(frozen=True, slots=True)
class Best:
    """The best validation by `train.best_metric`. `epoch`: from 1. `metric`, `value`: that metric. `metrics`: all."""

    step: int
    epoch: int
    metric: str
    value: float
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run. `step`, the steps done, is the whole data state: order and augmentation follow from it."""

    step: int = 0
    best: Best | None = None
    num_bad_validations: int = 0
    """Validations in a row without a new best."""
    last_valid: Metrics | None = None
    """Metrics of the newest validation."""
    validated_step: int = 0
    """Step of the newest validation. When a later one was due, it was interrupted and comes first after a resume."""

    @property
    def is_best(self) -> bool:
        """Whether the newest step is the best so far."""
        return self.best is not None and self.best.step == self.step


@dataclass(frozen=True)
class TrainState:
    """Network, averaged weights and optimizer, which training changes; and what a checkpoint says of them."""

    network: Network
    ema: MovingAverage | None
    """Moving average of the network's weights, when the recipe keeps one."""
    optimizer: Optimizer
    strategy: Strategy
    seed: int
    wandb_id: str
    data_sha256: str
    spec: NetworkSpec

    @property
    def model(self) -> nn.Module:
        return self.network.model

    @property
    def eval_model(self) -> nn.Module:
        """The network for evaluation: with averaged weights when the recipe keeps them."""
        return self.network.model if self.ema is None else self.ema.module


def step_name(step: int) -> str:
    return f"step-{step:08d}"
