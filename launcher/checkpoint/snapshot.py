"""Copies of the training's state in host memory, written from there completely or not at all.

Training waits for the copy only. The files: see `state`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher.checkpoint.atomic import commit, point, prune
from launcher.checkpoint.network_spec import SPEC_NAME
from launcher.checkpoint.optimizer_state import Groups, read_groups, read_tensors
from launcher.checkpoint.restore import OptimizerMetadata
from launcher.checkpoint.state import Progress, TrainState, step_name
from launcher.checkpoint.tensor_file import TensorFile
from launcher.errors import RunError
from launcher.run.journal import render_json
from launcher.text import one_line

Files = dict[str, TensorFile]
"""File name without suffix -> file."""


class HostMemory:
    """Memory of one snapshot at a time, used again from save to save: new pages cost more than the copy."""

    def __init__(self) -> None:
        self._files: Files = {}

    def copy(self, tensors: dict[str, dict[str, Tensor]]) -> Files:
        """`tensors`: file -> name -> tensor."""
        for name, each in tensors.items():
            if name not in self._files or not self._files[name].fits(each):
                self._files[name] = TensorFile(each)
            self._files[name].copy(each)
        return {name: self._files[name] for name in tensors}


@dataclass(frozen=True)
class Snapshot:
    """The state of a training at the end of a step, in host memory."""

    progress: Progress
    files: Files
    groups: Groups
    scaler: Callable[[], dict[str, Any] | None]
    """Gives the state of the fp16 scaler, once the GPU has copied."""
    metadata: dict[str, Any]
    spec: dict[str, Any]
    copied: torch.cuda.Event | None
    """Event after the copies from the GPU; None on a CPU, where they are complete."""


def take_snapshot(state: TrainState, progress: Progress, rngs: list[dict[str, Tensor]], memory: HostMemory) -> Snapshot:
    """`rngs`: states of the random generators of each rank. Valid until `memory` takes the next snapshot."""
    tensors = {
        "model": state.model.state_dict(),
        "optimizer": read_tensors(state.model, state.optimizer),
        "rng": {f"{rank}.{name}": tensor for rank, states in enumerate(rngs) for name, tensor in states.items()},
    }
    if state.ema is not None:
        tensors["ema"] = state.ema.module.state_dict()
    return _copy(state, progress, tensors, memory, world_size=len(rngs))


def _copy(
    state: TrainState, progress: Progress, tensors: dict[str, dict[str, Tensor]], memory: HostMemory, world_size: int
) -> Snapshot:
    device = state.strategy.device
    return Snapshot(
        progress=progress,
        files=memory.copy(tensors),
        groups=read_groups(state.model, state.optimizer),
        scaler=state.strategy.copy_scaler(),
        metadata={"wandb_id": state.wandb_id, "data_sha256": state.data_sha256, "world_size": world_size},
        spec=state.spec.to_json(),
        copied=torch.cuda.current_stream(device).record_event() if device.type == "cuda" else None,
    )


def write_snapshot(folder: Path, snapshot: Snapshot, keep: int) -> None:
    """Write `folder/step-...`, point `last` (and `best`, if it is the best) to it, prune.

    Raise OSError when that fails: the partial files are removed, and the previous checkpoint stays valid.
    """
    progress = snapshot.progress
    name = step_name(progress.step)
    temporary = folder / f".{name}.tmp"
    try:
        _write_files(temporary, snapshot)
        commit(temporary, folder / name)
        point(folder, "last", name)
        if progress.is_best:
            point(folder, "best", name)
        prune(folder, name, keep)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # others need the space on a full disk
        raise


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    if snapshot.copied is not None:
        snapshot.copied.synchronize()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    optimizer = OptimizerMetadata(groups=snapshot.groups, scaler=snapshot.scaler())
    for name, file in snapshot.files.items():
        metadata = {"optimizer": json.dumps(optimizer)} if name == "optimizer" else {}
        file.write(folder / f"{name}.safetensors", metadata)
    (folder / "state.json").write_text(render_json({**asdict(snapshot.progress), **snapshot.metadata}, indent=1))
    (folder / SPEC_NAME).write_text(render_json(snapshot.spec, indent=1))


def save_weights(folder: Path, state: TrainState) -> None:
    """Write the network alone, as step 0, `last` and `best`, for a training without steps. Called by rank 0 only."""
    name = step_name(0)
    temporary = folder / f".{name}.tmp"
    try:
        _write_files(temporary, _copy(state, Progress(), {"model": state.model.state_dict()}, HostMemory(), 1))
        commit(temporary, folder / name)
        for link in ("last", "best"):
            point(folder, link, name)
    except OSError as error:
        raise RunError(f"{folder / name}: cannot be written ({one_line(error)})") from None
