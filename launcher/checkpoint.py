"""Checkpoints: written whole or not at all, hashed, read back only when every hash is right.

checkpoints/step-00001234/model.safetensors   weights under plain names
                          ema.safetensors     averaged weights, when the recipe keeps them
                          optimizer.pt        optimizer and fp16 scaler
                          rng.safetensors     random generator of every rank
                          state.json          step, best, early-stop counter, W&B id, data hash
                          hashes.json         sha256 of each of these; written last
checkpoints/last -> step-00001234,  checkpoints/best -> step-00000987
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from launcher.errors import CheckpointError, RunError
from launcher.metrics import Figures
from launcher.strategy import Strategy, read_rng, seed_rank, write_rng
from shards.manifest import fsync_folder, write_atomically

HASHES = "hashes.json"
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Best:
    """The validation that `train.best_metric` ranks highest. `epoch` is from 1; `figures`: all of it."""

    step: int
    epoch: int
    metric: str
    value: float
    figures: Figures


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands. `step` is the whole data state: order and augmentation are functions of it."""

    step: int = 0
    best: Best | None = None
    stale: int = 0
    """Validations in a row without a new best."""
    last_valid: Figures | None = None
    """Figures of the newest validation."""


@dataclass(frozen=True)
class TrainState:
    """Everything of a run that changes while it trains, but for its Progress."""

    model: nn.Module
    ema: AveragedModel | None
    optimizer: Optimizer
    strategy: Strategy
    seed: int
    wandb_id: str
    data_sha256: str


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def save(folder: Path, state: TrainState, progress: Progress, keep: int) -> None:
    """Write `folder/step-...`, point `last` (and `best`, when it is that) to it, prune. Called by every rank."""
    rngs = state.strategy.gather(read_rng(state.strategy.device))
    state.strategy.on_first(lambda: _write(folder, state, progress, rngs, keep))


def _write(folder: Path, state: TrainState, progress: Progress, rngs: list[dict[str, Tensor]], keep: int) -> None:
    name = step_name(progress.step)
    temporary = folder / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_plain(state.model), temporary / "model.safetensors", metadata={"format": "pt"})
    if state.ema is not None:
        save_file(_plain(state.ema.module), temporary / "ema.safetensors", metadata={"format": "pt"})
    torch.save(
        {"optimizer": state.optimizer.state_dict(), "scaler": state.strategy.scaler_state}, temporary / "optimizer.pt"
    )
    save_file(
        {f"{rank}.{k}": v for rank, rng in enumerate(rngs) for k, v in rng.items()}, temporary / "rng.safetensors"
    )
    facts = {"wandb_id": state.wandb_id, "data_sha256": state.data_sha256, "world_size": len(rngs)}
    (temporary / "state.json").write_text(json.dumps({**asdict(progress), **facts}, indent=1))
    hashes = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
    for path in temporary.iterdir():
        _fsync(path)
    write_atomically(temporary / HASHES, json.dumps(hashes, indent=1).encode())
    shutil.rmtree(folder / name, ignore_errors=True)  # only ever one that was found damaged
    temporary.rename(folder / name)
    fsync_folder(folder)
    _point(folder, "last", name)
    if progress.best is not None and progress.best.step == progress.step:
        _point(folder, "best", name)
    _prune(folder, keep)


def restore(folder: Path, state: TrainState, report: Callable[[str], None]) -> Progress:
    """Load the newest complete checkpoint into `state`; Progress() when there is none. Called by every rank.

    `report` is told of each checkpoint that is skipped, and why.
    """
    path = state.strategy.on_first(lambda: find_newest(folder, report))
    if path is None:
        return Progress()
    facts = _read_state(path)
    if facts["data_sha256"] != state.data_sha256:
        raise RunError(
            f"{path}: the shards have changed since this checkpoint; put them back, or start anew with --fresh"
        )
    state.model.load_state_dict(load_file(path / "model.safetensors"))
    if state.ema is not None:
        state.ema.module.load_state_dict(load_file(path / "ema.safetensors"))
        state.ema.n_averaged.fill_(facts["step"])
    saved = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    state.optimizer.load_state_dict(saved["optimizer"])
    state.strategy.restore_scaler(saved["scaler"])
    world = state.strategy.world
    if facts["world_size"] == world.size:
        rng = load_file(path / "rng.safetensors")
        mine = {key.partition(".")[2]: value for key, value in rng.items() if key.startswith(f"{world.rank}.")}
        write_rng(mine, state.strategy.device)
    else:
        seed_rank(state.seed, world, facts["step"])
    return read_progress(path)


def find_newest(folder: Path, report: Callable[[str], None]) -> Path | None:
    """The newest checkpoint whose files all have their hash."""
    for path in _complete_or_not(folder):
        try:
            check_checkpoint(path)
        except CheckpointError as error:
            report(f"{error}; skipped, trying the one before")
        else:
            return path
    return None


def check_checkpoint(path: Path) -> None:
    """Raise CheckpointError naming the first file that is missing or not what was written."""
    try:
        hashes: dict[str, str] = json.loads((path / HASHES).read_text())
    except (OSError, ValueError):
        raise CheckpointError(f"{path}: no readable {HASHES}") from None
    for name, sha256 in hashes.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing")
        if _sha256(file) != sha256:
            raise CheckpointError(f"{file}: damaged: its hash is not the one written")


def read_progress(path: Path) -> Progress:
    """Where the checkpoint at `path` stands; Progress() when there is none."""
    if not path.exists():
        return Progress()
    facts = _read_state(path)
    best = Best(**facts["best"]) if facts["best"] is not None else None
    return Progress(facts["step"], best, facts["stale"], facts["last_valid"])


def _read_state(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((path / "state.json").read_text())
    return facts


def load_weights(path: Path, model: nn.Module, ema: bool) -> None:
    """The weights to evaluate with: the averaged ones where they are kept."""
    model.load_state_dict(load_file(path / ("ema.safetensors" if ema else "model.safetensors")))


def _complete_or_not(folder: Path) -> Iterator[Path]:
    """Step folders, newest first."""
    yield from sorted(folder.glob("step-*"), reverse=True)


def _prune(folder: Path, keep: int) -> None:
    best = (folder / "best").resolve()
    for path in list(_complete_or_not(folder))[keep:]:
        if path.resolve() != best:
            # Renamed first: a deletion that is cut short leaves nothing that looks like a checkpoint.
            doomed = path.with_name(f".{path.name}.old")
            path.rename(doomed)
            shutil.rmtree(doomed)


def _point(folder: Path, name: str, target: str) -> None:
    temporary = folder / f".{name}.tmp"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(folder / name)


def _plain(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _fsync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
