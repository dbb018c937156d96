"""What a checkpoint holds, copied to memory of the host in one pass, and written from there whole or not at all.

Training waits for the copy alone. The files are described in `checkpoint`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from launcher.checkpoint import Progress, TrainState, names_by_group, step_name
from launcher.commit import commit, point, prune
from launcher.errors import RunError
from launcher.log.journal import render_json

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""A full disk is each of these to somebody."""

Tensors = dict[str, Tensor]


class HostMemory:
    """Holds one snapshot at a time, in the same memory from save to save: new pages cost more than the copy.

    For a tensor on a GPU it is pinned, and the copy runs in the GPU's own order of work while the host goes on.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    def copy(self, name: str, tree: Any) -> Any:
        """`tree` (dicts, lists, tensors and what else there is) with each tensor replaced by its copy, kept as `name`.

        Strides are kept: putting channels in another order is for whoever writes it.
        """
        if isinstance(tree, Tensor):
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != tree.shape or buffer.dtype != tree.dtype:
                buffer = torch.empty_like(tree, device="cpu", pin_memory=tree.is_cuda, requires_grad=False)
                self._buffers[name] = buffer
            return buffer.copy_(tree.detach(), non_blocking=True)
        if isinstance(tree, Mapping):
            return {key: self.copy(f"{name}.{key}", value) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.copy(f"{name}.{i}", value) for i, value in enumerate(tree)]
        return tree


@dataclass(frozen=True)
class Snapshot:
    """A training at the end of a step, in memory of the host."""

    progress: Progress
    weights: dict[str, Tensors]
    """`model`, and `ema` where averaged weights are kept: plain name -> tensor."""
    optimizer: dict[str, Any]
    rngs: list[Tensors]
    """State of the random generators of every rank."""
    facts: dict[str, Any]
    copied: torch.cuda.Event | None
    """When the copies from the GPU are complete; None on a CPU, where they are."""


def take_snapshot(state: TrainState, progress: Progress, rngs: list[Tensors], memory: HostMemory) -> Snapshot:
    """`rngs`: of every rank. Valid until `memory` takes the next."""
    models: dict[str, nn.Module] = {"model": state.model}
    if state.ema is not None:
        models["ema"] = state.ema.module
    device = state.strategy.device
    return Snapshot(
        progress=progress,
        weights={name: memory.copy(name, model.state_dict()) for name, model in models.items()},
        optimizer={
            "optimizer": memory.copy("optimizer", state.optimizer.state_dict()),
            "names": names_by_group(state),
            "scaler": state.strategy.scaler_state,
        },
        rngs=rngs,
        facts=_facts(state, len(rngs)),
        copied=torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None,
    )


def write_snapshot(folder: Path, snapshot: Snapshot, keep: int) -> None:
    """Write `folder/step-...`, point `last` (and `best`, when it is that) to it, prune.

    Raise one of WRITE_ERRORS when that fails: what was written of it is removed, and the checkpoint before stands.
    """
    progress = snapshot.progress
    name = step_name(progress.step)
    temporary = folder / f".{name}.tmp"
    try:
        _write_files(temporary, snapshot)
        commit(temporary, folder / name)
        point(folder, "last", name)
        if progress.best is not None and progress.best.step == progress.step:
            point(folder, "best", name)
        prune(folder, name, keep)
    except WRITE_ERRORS:
        shutil.rmtree(temporary, ignore_errors=True)  # on a full disk others need the room
        raise


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    if snapshot.copied is not None:
        snapshot.copied.synchronize()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, tensors in snapshot.weights.items():
        _write_weights(folder / f"{name}.safetensors", tensors)
    torch.save(snapshot.optimizer, folder / "optimizer.pt")
    rng = {f"{rank}.{key}": state for rank, states in enumerate(snapshot.rngs) for key, state in states.items()}
    save_file(rng, folder / "rng.safetensors")
    (folder / "state.json").write_text(render_json({**asdict(snapshot.progress), **snapshot.facts}, indent=1))


def save_weights(folder: Path, state: TrainState) -> None:
    """Write the network alone, as step 0, `last` and `best`: of what was fitted in no steps. Called by rank 0 alone."""
    name = step_name(0)
    temporary = folder / f".{name}.tmp"
    try:
        temporary.mkdir(parents=True)
        _write_weights(temporary / "model.safetensors", state.model.state_dict())
        (temporary / "state.json").write_text(render_json({**asdict(Progress()), **_facts(state, 1)}, indent=1))
        commit(temporary, folder / name)
        for link in ("last", "best"):
            point(folder, link, name)
    except WRITE_ERRORS as error:
        raise RunError(f"{folder / name}: cannot be written ({one_line(error)})") from None


def _write_weights(file: Path, tensors: Tensors) -> None:
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(plain, file, metadata={"format": "pt"})


def _facts(state: TrainState, world_size: int) -> dict[str, Any]:
    return {"wandb_id": state.wandb_id, "data_sha256": state.data_sha256, "world_size": world_size}


def one_line(error: Exception) -> str:
    """Why a write failed."""
    return " ".join(str(error).split())
