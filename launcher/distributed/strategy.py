"""Devices, precision and gradient exchange. The only importer of accelerate."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, nn
from torch.optim import Optimizer

from launcher import keyed_random
from launcher.distributed.comm import Comm, ShouldStop, never
from launcher.distributed.compute_timer import build_compute_timer
from launcher.distributed.ddp import has_plain_batchnorm, wrap_ddp
from launcher.distributed.gpus import check_own_gpu
from launcher.distributed.network import complete_environment
from launcher.distributed.scaler import ScalerState, copy_scaler
from launcher.distributed.timeouts import JOIN_TIMEOUT, training_timeout
from launcher.distributed.watchdog.beacon import Position
from launcher.distributed.world import World, read_world
from launcher.errors import UserError
from launcher.recipe.schema import Strategy as StrategySection


class Strategy:
    """Device, precision and gradient exchange of this rank. `comm`: its other collectives."""

    def __init__(self, section: StrategySection, comm: Comm, accelerator: Accelerator) -> None:
        self.comm = comm
        self.world = comm.world
        self.device: torch.device = accelerator.device
        self.memory_format = torch.channels_last if section.channels_last else torch.contiguous_format
        self.compute_timer = build_compute_timer(self.world.size, self.device)
        self._accelerator = accelerator
        self.syncs_batchnorm = section.sync_batchnorm and self.world.size > 1
        """Whether each BatchNorm must be a SyncBatchNorm before `to_device`."""
        self._wrapped: nn.Module | None = None
        self._last_gradient: Any = None

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model for training steps: with autocast and DDP. Unwraps the model wrapped before."""
        if self._wrapped is not None:
            # Removes DDP's hooks, too: gradients would be exchanged twice otherwise.
            self._accelerator.unwrap_model(self._wrapped, keep_fp32_wrapper=False)
            self._accelerator._models.clear()
        # `evaluation_mode`: with autocast alone. accelerate's DDP would take LOCAL_RANK for the index of the GPU.
        self._wrapped = self._accelerator.prepare_model(model, evaluation_mode=True)
        assert self._wrapped is not None
        if self._accelerator.num_processes > 1:
            self._wrapped = wrap_ddp(self._wrapped, self.device)
        if self.world.size > 1:
            self._hook_last_gradient(model)
        return self._wrapped

    def _hook_last_gradient(self, model: nn.Module) -> None:
        """Mark the point in a backward pass where only the exchange is left: the first parameter's gradient is last."""

        def on_last_gradient(_gradient: Tensor) -> None:
            beacon = self.comm.beacon
            beacon.position = Position("reduce", beacon.position.step, True)
            self.compute_timer.end()

        if self._last_gradient is not None:
            self._last_gradient.remove()
        first = next(parameter for parameter in model.parameters() if parameter.requires_grad)
        self._last_gradient = first.register_hook(on_last_gradient)  # type: ignore[no-untyped-call]

    def prepare_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """The optimizer for `step`: with the fp16 scaler in that precision."""
        if self._accelerator.scaler is None:
            return optimizer  # accelerate's own searches sys.path twice a step
        return self._accelerator.prepare_optimizer(optimizer)  # type: ignore[no-any-return]

    @property
    def precision(self) -> str:
        """`no`, `bf16` or `fp16`."""
        return str(self._accelerator.mixed_precision)

    @property
    def amp_dtype(self) -> torch.dtype | None:
        """Type in which AMP computes convolutions and matrix products; None without AMP."""
        return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)

    def to_device(self, model: nn.Module) -> nn.Module:
        """Move to the device in the recipe's memory format. Call it before an optimizer holds the parameters."""
        assert not (self.syncs_batchnorm and has_plain_batchnorm(model)), "BatchNorm is not converted"
        return model.to(device=self.device, memory_format=self.memory_format)  # type: ignore[call-overload,no-any-return]

    def layout(self, images_BCHW: Tensor) -> Tensor:
        """Images in the model's memory format."""
        return images_BCHW.contiguous(memory_format=self.memory_format)

    def autocast(self) -> AbstractContextManager[None]:
        return self._accelerator.autocast()  # type: ignore[no-any-return]

    def sync_gradients(self, now: bool) -> AbstractContextManager[None]:
        """Context of a forward and backward pass. `now`: sum the gradients over ranks in this pass."""
        self.compute_timer.begin()
        return nullcontext() if now else self._accelerator.no_sync(self._wrapped)

    def backward(self, loss: Tensor) -> None:
        # Without a scaler accelerate only divides by its own number of accumulated passes, which is 1 here.
        if self._accelerator.scaler is None:
            loss.backward()  # type: ignore[no-untyped-call]
        else:
            self._accelerator.backward(loss)

    def step(self, optimizer: Optimizer, clip_norm: float | None, parameters: Iterable[nn.Parameter]) -> bool:
        """Clip, step, clear gradients. False when the fp16 scaler found an overflow and skipped the step."""
        if clip_norm is not None:
            self._accelerator.clip_grad_norm_(parameters, clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        return not self._accelerator.optimizer_step_was_skipped

    @property
    def has_scaler(self) -> bool:
        """Whether losses are scaled, for fp16."""
        return self._accelerator.scaler is not None

    def copy_scaler(self) -> Callable[[], ScalerState | None]:
        """The fp16 loss scaler as it is now, to be read once the GPU has copied; gives None in other precisions."""
        scaler = self._accelerator.scaler
        return (lambda: None) if scaler is None else copy_scaler(scaler)

    def restore_scaler(self, state: ScalerState | None) -> None:
        if self._accelerator.scaler is not None and state is not None:
            self._accelerator.scaler.load_state_dict(state)


def choose_device(
    wanted: Literal["auto", "cpu", "cuda"],
    num_gpus: int,
    world: World,
    environment: Mapping[str, str],
    for_cpu: str = "set strategy.device=cpu",
) -> Literal["cpu", "cuda"]:
    """The device type that `wanted` means here. Raise UserError when there are GPUs but fewer than ranks on this node.

    A single GPU may be this rank's own, as under `srun --gpus-per-task=1`: `check_own_gpu` asks the other ranks, once
    they are connected. It is too few for a `world` that is not that of `environment` but still to be started.
    `for_cpu`: how the user chooses the CPU, for the message.
    """
    prefers_cpu = environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if wanted == "cpu" or (wanted == "auto" and prefers_cpu):
        return "cpu"
    may_be_own = num_gpus == 1 and world.local_size == read_world(environment).local_size
    if num_gpus >= world.local_size or may_be_own:
        return "cuda"
    if wanted == "auto" and num_gpus == 0:
        return "cpu"
    advice = f"start with --num_processes {max(num_gpus, 1)}, or {for_cpu}"
    raise UserError(f"{world.local_size} processes on this node but {num_gpus} GPUs: {advice}")


def build_strategy(
    section: StrategySection, world: World, seed: int, deterministic: bool, stop_requested: ShouldStop = never
) -> Strategy:
    """Join the other ranks. `stop_requested`: for Comm.

    Raise UserError when devices, precision or environment do not allow what the recipe wants.
    """
    environment = os.environ
    device_type = choose_device(section.device, torch.cuda.device_count(), world, environment)
    if section.precision == "fp16" and device_type == "cpu":
        raise UserError("strategy.precision: fp16 needs CUDA, which is not available here; use bf16 or no")
    if section.sync_batchnorm and device_type == "cpu":
        raise UserError("strategy.sync_batchnorm: needs CUDA, which is not available here; set it to false")
    if world.size > 1:
        complete_environment(world, environment)
    if deterministic:
        environment.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = not deterministic
    torch.manual_seed(seed)
    accelerator = Accelerator(
        cpu=device_type == "cpu",
        mixed_precision=section.precision,
        kwargs_handlers=[InitProcessGroupKwargs(timeout=JOIN_TIMEOUT)],
    )
    _check_accelerator(accelerator, device_type)
    comm = Comm(world, stop_requested, training_timeout(section.hang_timeout_s))
    check_own_gpu(comm, accelerator.device)
    return Strategy(section, comm, accelerator)


def _check_accelerator(accelerator: Accelerator, device_type: str) -> None:
    """Raise UserError when `accelerate config` or an ACCELERATE_ variable contradicts the recipe."""
    kind = str(accelerator.distributed_type.value)
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        advice = "use 'accelerate launch --config_file' with DDP"
        raise UserError(f"accelerate is set to {kind}, which is not supported: {advice}")
    if accelerator.gradient_accumulation_steps != 1:
        raise UserError("unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS: set train.micro_batch instead")
    if accelerator.device.type != device_type:
        problem = f"strategy.device is {device_type} but accelerate chose {accelerator.device.type}"
        raise UserError(f"{problem}: see ACCELERATE_USE_CPU")


def seed_rank(seed: int, world: World, step: int = 0) -> None:
    """Seed torch's generator for the network's own random numbers (dropout): different on every rank."""
    torch.manual_seed(int(keyed_random.bits(seed, step, world.rank)[0] >> np.uint64(1)))


def get_rng_state(device: torch.device) -> dict[str, Tensor]:
    """State of torch's generators: `cpu`, and `cuda` on a GPU."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_rng_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
