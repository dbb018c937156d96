"""How a run resumes from a checkpoint: read back only when every hash is right. The files: see `state`."""

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
from launcher.checkpoint.optimizer_state import Groups, is_of, load_tensors
from launcher.checkpoint.state import Best, Progress, TrainState, step_name
from launcher.distributed.strategy import seed_rank, write_rng
from launcher.errors import CheckpointError, RunError


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins, or resumes. `path`: the checkpoint; None at the beginning."""

    path: Path | None
    progress: Progress


class OptimizerMetadata(TypedDict):
    """What an optimizer's file says beside its tensors. `scaler`: of fp16, or null."""

    groups: Groups
    scaler: dict[str, Any] | None


def find_start(folder: Path, state: TrainState, report: Callable[[str], None]) -> Start:
    """The newest complete checkpoint, for `restore_weights` and then `restore_optimizer`. Called by every rank.

    `report` is told of each checkpoint that is skipped, and why. Raise RunError when it is of other data.
    """
    start = state.strategy.comm.run_on_rank0(lambda: _find_start(folder, report))
    if start.path is not None and _read_state(start.path)["data_sha256"] != state.data_sha256:
        raise RunError(
            f"{start.path}: the shards have changed since this checkpoint; put them back, or start anew with --fresh"
        )
    return start


def restore_weights(start: Start, state: TrainState) -> None:
    """Raise RunError when they are of another network."""
    if start.path is None:
        return
    _load_into(state.model, start.path / "model.safetensors")
    if state.ema is not None:
        _load_into(state.ema.module, _weights_file(start.path, ema=True))
        state.ema.n_averaged.fill_(start.progress.step)


def restore_optimizer(start: Start, state: TrainState) -> None:
    """Optimizer, fp16 scaler and random generators. Raise RunError when they are of another optimizer."""
    path = start.path
    if path is None:
        return
    file = path / "optimizer.safetensors"
    metadata = _read_optimizer_metadata(file)
    if not is_of(metadata["groups"], state.model, state.optimizer):
        raise RunError(f"{path}: its optimizer is not the recipe's, or trained other weights; start anew with --fresh")
    load_tensors(_read_tensors(file), state.model, state.optimizer)
    state.strategy.restore_scaler(metadata["scaler"])
    world = state.strategy.world
    if _read_state(path)["world_size"] == world.size:
        rng = _read_tensors(path / "rng.safetensors")
        mine = {key.partition(".")[2]: value for key, value in rng.items() if key.startswith(f"{world.rank}.")}
        write_rng(mine, state.strategy.device)
    else:
        seed_rank(state.seed, world, start.progress.step)


def _find_start(folder: Path, report: Callable[[str], None]) -> Start:
    """The newest complete checkpoint and its progress; `last` and `best` are made to agree with it."""
    path = find_newest(folder, report)
    if path is None:
        for name in ("last", "best"):
            (folder / name).unlink(missing_ok=True)
        return Start(None, Progress())
    point(folder, "last", path.name)
    progress = read_progress(path)
    try:
        if progress.best is not None:
            check_folder(folder / step_name(progress.best.step))
            point(folder, "best", step_name(progress.best.step))
    except CheckpointError as error:
        report(f"{error}; it was the best so far, which is looked for anew")
        point(folder, "best", path.name)
        progress = replace(progress, best=None, num_bad_validations=0)
    return Start(path, progress)


def read_progress(path: Path) -> Progress:
    """Where the checkpoint at `path` stands; Progress() when there is none."""
    if not path.exists():
        return Progress()
    found = _read_state(path)
    try:
        values = {field.name: found[field.name] for field in fields(Progress)}
        best = Best(**found["best"]) if found["best"] is not None else None
    except (KeyError, TypeError):
        raise _other_version(path) from None
    return Progress(**{**values, "best": best})


def _read_state(path: Path) -> dict[str, Any]:
    metadata: dict[str, Any] = json.loads((path / "state.json").read_text())
    return metadata


def load_eval_weights(path: Path, state: TrainState) -> None:
    """Load what `load_weights` says into the network that is evaluated."""
    load_weights(path, state.eval_model, ema=state.ema is not None)


def load_weights(path: Path, model: nn.Module, ema: bool) -> None:
    """Load the weights to evaluate with: the averaged ones where they are kept.

    Raise CheckpointError when they are not what was written, RunError when they are of another network.
    """
    file = _weights_file(path, ema)
    check_file(file, read_hashes(path).get(file.name, ""))
    _load_into(model, file)


def _weights_file(path: Path, ema: bool) -> Path:
    """Where averaging began later than the checkpoint, the plain weights are its beginning."""
    return path / ("ema.safetensors" if ema and "ema.safetensors" in read_hashes(path) else "model.safetensors")


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise _foreign(file, error) from None


def _foreign(file: Path, error: SafetensorError) -> RunError:
    return RunError(f"{file}: has its hash, but is no safetensors file ({error}); start anew with --fresh")


def _other_version(checkpoint: Path) -> RunError:
    return RunError(f"{checkpoint}: another version wrote this checkpoint; start anew with --fresh")


def _load_into(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(_read_tensors(file))
    except RuntimeError:
        raise RunError(f"{file}: its weights are not of the recipe's network; start anew with --fresh") from None


def _read_optimizer_metadata(file: Path) -> OptimizerMetadata:
    if not file.exists():
        raise _other_version(file.parent)
    try:
        with safe_open(file, "pt") as opened:
            metadata: OptimizerMetadata = json.loads(opened.metadata()["optimizer"])
    except SafetensorError as error:
        raise _foreign(file, error) from None
    return metadata
