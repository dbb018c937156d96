"""What a checkpoint holds, copied to memory of the host in one pass, and written from there whole or not at all.

Training waits for the copy alone. The files are described in `checkpoint`.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from launcher.checkpoint import OptimizerFacts, Progress, TrainState, step_name
from launcher.commit import commit, point, prune
from launcher.errors import RunError
from launcher.log.journal import render_json
from launcher.optim.state import read_groups, read_tensors

WRITE_ERRORS = (OSError, RuntimeError, SafetensorError)
"""A full disk is each of these to somebody."""

Files = dict[str, dict[str, Tensor]]
"""The tensors of each file, by the file's name without its end."""


class HostMemory:
    """Holds one snapshot at a time, in the same memory from save to save: new pages cost more than the copy.

    For a tensor on a GPU it is pinned, and the copy takes its turn in the GPU's work while the host goes on.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, str], Tensor] = {}

    def copy(self, files: Files) -> Files:
        """Strides are kept: to put channels in another order is for whoever writes it."""
        return {
            file: {name: self._copy((file, name), tensor.detach()) for name, tensor in tensors.items()}
            for file, tensors in files.items()
        }

    def _copy(self, key: tuple[str, str], tensor: Tensor) -> Tensor:
        buffer = self._buffers.get(key)
        if buffer is None or buffer.shape != tensor.shape or buffer.dtype != tensor.dtype:
            buffer = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._buffers[key] = buffer
        return buffer.copy_(tensor, non_blocking=True)


@dataclass(frozen=True)
class Snapshot:
    """A training at the end of a step, in memory of the host."""

    progress: Progress
    files: Files
    optimizer: OptimizerFacts
    facts: dict[str, Any]
    copied: torch.cuda.Event | None
    """When the copies from the GPU are complete; None on a CPU, where they are."""


def take_snapshot(state: TrainState, progress: Progress, rngs: list[dict[str, Tensor]], memory: HostMemory) -> Snapshot:
    """`rngs`: states of the random generators of every rank. Valid until `memory` takes the next."""
    files: Files = {
        "model": state.model.state_dict(),
        "optimizer": read_tensors(state.model, state.optimizer),
        "rng": {f"{rank}.{name}": tensor for rank, states in enumerate(rngs) for name, tensor in states.items()},
    }
    if state.ema is not None:
        files["ema"] = state.ema.module.state_dict()
    device = state.strategy.device
    return Snapshot(
        progress=progress,
        files=memory.copy(files),
        optimizer={"groups": read_groups(state.model, state.optimizer), "scaler": state.strategy.scaler_state},
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
    for name, tensors in snapshot.files.items():
        facts = {"optimizer": json.dumps(snapshot.optimizer)} if name == "optimizer" else {}
        _write_tensors(folder / f"{name}.safetensors", tensors, facts)
    (folder / "state.json").write_text(render_json({**asdict(snapshot.progress), **snapshot.facts}, indent=1))


def save_weights(folder: Path, state: TrainState) -> None:
    """Write the network alone, as step 0, `last` and `best`: of what was fitted in no steps. Called by rank 0 alone."""
    name = step_name(0)
    temporary = folder / f".{name}.tmp"
    try:
        temporary.mkdir(parents=True)
        _write_tensors(temporary / "model.safetensors", state.model.state_dict(), {})
        (temporary / "state.json").write_text(render_json({**asdict(Progress()), **_facts(state, 1)}, indent=1))
        commit(temporary, folder / name)
        for link in ("last", "best"):
            point(folder, link, name)
    except WRITE_ERRORS as error:
        raise RunError(f"{folder / name}: cannot be written ({one_line(error)})") from None


def _write_tensors(file: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    plain = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    save_file(plain, file, metadata={"format": "pt", **facts})


def _facts(state: TrainState, world_size: int) -> dict[str, Any]:
    return {"wandb_id": state.wandb_id, "data_sha256": state.data_sha256, "world_size": world_size}


def one_line(error: Exception) -> str:
    """Why a write failed."""
    return " ".join(str(error).split())
