"""Resuming from a checkpoint: nothing is read before its hash is checked. The files: see `state`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from launcher.checkpoint.atomic import check_file, check_folder, find_newest, point, read_hashes
from launcher.checkpoint.optimizer_state import Groups, load_tensors, matches
from launcher.checkpoint.state import Best, Progress, TrainState, step_name
from launcher.distributed.strategy import seed_rank, set_rng_state
from launcher.errors import CheckpointError, RunError


@dataclass(frozen=True, slots=True)
class Start:
    """Start of a run. `path`: the checkpoint that it resumes from; None: it starts at step 0.

    `data_sha256`, `world_size`: of the data and the ranks that trained so far.
    """

    path: Path | None
    progress: Progress
    data_sha256: str = ""
    world_size: int = 0


class OptimizerMetadata(TypedDict):
    """Metadata of an optimizer's file. `scaler`: state of the fp16 scaler, or null."""

    groups: Groups
    scaler: dict[str, Any] | None


def find_start(folder: Path, state: TrainState, report: Callable[[str], None]) -> Start:
    """The newest complete checkpoint, for `restore_weights` and then `restore_optimizer`. Called by every rank.

    Mends what a crash has left: `last` and `best` point to what belongs to it.
    `report` gets a line for each checkpoint that is skipped. Raise RunError when the newest is of other data or of
    another version.
    """
    start = state.strategy.comm.run_on_rank0(lambda: _find_start(folder, report))
    if start.path is not None and start.data_sha256 != state.data_sha256:
        problem = f"{start.path}: the shards have changed since this checkpoint"
        raise RunError(f"{problem}; put them back, or start anew with --fresh")
    return start


def restore_weights(start: Start, state: TrainState) -> None:
    """Raise RunError when the weights are of another network."""
    if start.path is None:
        return
    _load_into(state.model, start.path / "model.safetensors")
    if state.ema is not None:
        _load_into(state.ema.module, _weights_file(start.path, ema=True))
        state.ema.n_averaged = start.progress.step


def restore_optimizer(start: Start, state: TrainState) -> None:
    """Optimizer, fp16 scaler and random generators. Raise RunError when the checkpoint has another optimizer."""
    path = start.path
    if path is None:
        return
    file = path / "optimizer.safetensors"
    metadata = _read_optimizer_metadata(file)
    if not matches(metadata["groups"], state.model, state.optimizer):
        raise RunError(f"{path}: its optimizer is not the recipe's, or trained other weights; start anew with --fresh")
    load_tensors(_read_tensors(file), state.model, state.optimizer)
    state.strategy.restore_scaler(metadata["scaler"])
    world = state.strategy.world
    if start.world_size == world.size:
        rng = _read_tensors(path / "rng.safetensors")
        mine = {key.partition(".")[2]: value for key, value in rng.items() if key.startswith(f"{world.rank}.")}
        set_rng_state(mine, state.strategy.device)
    else:
        seed_rank(state.seed, world, start.progress.step)


def _find_start(folder: Path, report: Callable[[str], None]) -> Start:
    """The newest complete checkpoint and its progress. Points `last` and `best` to what belongs to it."""
    path = find_newest(folder, report)
    if path is None:
        for name in ("last", "best"):
            (folder / name).unlink(missing_ok=True)
        return Start(None, Progress())
    point(folder, "last", path.name)
    start = _read_start(path)
    progress = start.progress
    try:
        if progress.best is not None:
            check_folder(folder / step_name(progress.best.step))
            point(folder, "best", step_name(progress.best.step))
    except CheckpointError as error:
        report(f"{error}; it was the best so far: the best is chosen anew from here")
        point(folder, "best", path.name)
        start = replace(start, progress=replace(progress, best=None, num_bad_validations=0))
    return start


def read_progress(path: Path) -> Progress:
    """Progress of the checkpoint at `path`; Progress() when there is none."""
    return _read_start(path).progress if path.exists() else Progress()


def _read_start(path: Path) -> Start:
    """Raise RunError when another version wrote the checkpoint."""
    try:
        found = json.loads((path / "state.json").read_text())
        best = Best(**found["best"]) if found["best"] is not None else None
        values = {field.name: found[field.name] for field in fields(Progress)}
        return Start(path, Progress(**{**values, "best": best}), found["data_sha256"], found["world_size"])
    except (ValueError, KeyError, TypeError):
        raise _other_version(path) from None


def load_weights(path: Path, model: nn.Module, ema: bool) -> None:
    """Load the weights to evaluate with: the averaged ones when the checkpoint has them.

    Raise CheckpointError when they are damaged, RunError when they are of another network.
    """
    file = _weights_file(path, ema)
    check_file(file, read_hashes(path).get(file.name, ""))
    _load_into(model, file)


def _weights_file(path: Path, ema: bool) -> Path:
    """The file of averaged weights; where `optim.ema_decay` was added later, the weights that averaging starts from."""
    return path / ("ema.safetensors" if ema and "ema.safetensors" in read_hashes(path) else "model.safetensors")


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _foreign(file, error) from None


def _foreign(file: Path, error: SafetensorError) -> RunError:
    return RunError(f"{file}: its hash is right, but it is no safetensors file ({error}); start anew with --fresh")


def _other_version(checkpoint: Path) -> RunError:
    return RunError(f"{checkpoint}: another version wrote this checkpoint; start anew with --fresh")


def _load_into(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(_read_tensors(file))
    except RuntimeError:
        raise RunError(f"{file}: its weights are not of the recipe's network; start anew with --fresh") from None


def _read_optimizer_metadata(file: Path) -> OptimizerMetadata:
    try:
        with safe_open(file, "pt") as opened:
            found = json.loads(opened.metadata()["optimizer"])
            return OptimizerMetadata(groups=found["groups"], scaler=found["scaler"])
    except SafetensorError as error:
        raise _foreign(file, error) from None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        raise _other_version(file.parent) from None
