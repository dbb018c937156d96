"""What a checkpoint holds.

checkpoints/step-00001234/model.safetensors   weights under plain names
                          ema.safetensors     averaged weights, when the recipe keeps them
                          optimizer.safetensors   optimizer; its groups and the fp16 scaler beside the tensors
                          rng.safetensors     random generator of every rank
                          state.json          progress, W&B id, data hash
                          network.json        recipe, class names and normalisation: all that the weights need
                          hashes.json         sha256 of each of these; written last
checkpoints/last -> step-00001234,  checkpoints/best -> step-00000987
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from launcher.checkpoint.network_spec import NetworkSpec
from launcher.distributed.strategy import Strategy
from launcher.metrics.names import Metrics
from launcher.models.zoo import Network


@dataclass(frozen=True, slots=True)
class Best:
    """The validation that `train.best_metric` ranks highest. `epoch` is from 1; `metrics`: all of it."""

    step: int
    epoch: int
    metric: str
    value: float
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. `step` is the whole data state: order and augmentation are functions of it."""

    step: int = 0
    best: Best | None = None
    num_bad_validations: int = 0
    """Validations in a row without a new best."""
    last_valid: Metrics | None = None
    """Metrics of the newest validation."""
    validated_step: int = 0
    """Step of the newest validation. Less than the last one due: it was interrupted, and is the first thing to do."""


@dataclass(frozen=True)
class TrainState:
    """Everything of a run that changes while it trains, but for its Progress."""

    network: Network
    ema: AveragedModel | None
    """Moving average of the network's weights, where the recipe keeps one."""
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
        """The network that is evaluated: with averaged weights, where the recipe keeps them."""
        model: nn.Module = self.network.model if self.ema is None else self.ema.module
        return model


def step_name(step: int) -> str:
    return f"step-{step:08d}"
