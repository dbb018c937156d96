"""Checkpoints: what is in them, and how a run goes on from one: read back only when every hash is right.

checkpoints/step-00001234/model.safetensors   weights under plain names
                          ema.safetensors     averaged weights, when the recipe keeps them
                          optimizer.safetensors   optimizer; its groups and the fp16 scaler beside the tensors
                          rng.safetensors     random generator of every rank
                          state.json          step, best, early-stop counter, W&B id, data hash
                          network.json        recipe, class names and normalisation: all that the weights need
                          hashes.json         sha256 of each of these; written last
checkpoints/last -> step-00001234,  checkpoints/best -> step-00000987
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from launcher.checkpoint.atomic import check_file, check_folder, find_newest, point, read_hashes
from launcher.checkpoint.network_spec import Card
from launcher.checkpoint.optimizer_state import Groups, is_of, load_tensors
from launcher.distributed.strategy import Strategy, seed_rank, write_rng
from launcher.errors import CheckpointError, RunError
from launcher.metrics.counts import Figures


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
    is_judged: bool = True
    """False: stopped before the validation that is due after `step` was over; it is then the first thing to do."""


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins, or goes on. `path`: the checkpoint; None at the beginning."""

    path: Path | None
    progress: Progress


class OptimizerFacts(TypedDict):
    """What an optimizer's file says beside its tensors. `scaler`: of fp16, or null."""

    groups: Groups
    scaler: dict[str, Any] | None


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
    card: Card


def step_name(step: int) -> str:
    return f"step-{step:08d}"


def find_start(folder: Path, state: TrainState, report: Callable[[str], None]) -> Start:
    """The newest complete checkpoint, for `restore_weights` and then `restore_optimizer`. Called by every rank.

    `report` is told of each checkpoint that is skipped, and why. Raise RunError when it is of other data.
    """
    start = state.strategy.on_first(lambda: _find_start(folder, report))
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
    facts = _read_optimizer_facts(file)
    if not is_of(facts["groups"], state.model, state.optimizer):
        raise RunError(f"{path}: its optimizer is not the recipe's, or trained other weights; start anew with --fresh")
    load_tensors(_read_tensors(file), state.model, state.optimizer)
    state.strategy.restore_scaler(facts["scaler"])
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
        report(f"{error}; it was the best, which is looked for anew")
        point(folder, "best", path.name)
        progress = replace(progress, best=None, stale=0)
    return Start(path, progress)


def read_progress(path: Path) -> Progress:
    """Where the checkpoint at `path` stands; Progress() when there is none."""
    if not path.exists():
        return Progress()
    facts = _read_state(path)
    best = Best(**facts["best"]) if facts["best"] is not None else None
    return Progress(facts["step"], best, facts["stale"], facts["last_valid"], facts.get("is_judged", True))


def _read_state(path: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((path / "state.json").read_text())
    return facts


def load_weights(path: Path, model: nn.Module, ema: bool) -> None:
    """The weights to evaluate with: the averaged ones where they are kept.

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


def _load_into(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(_read_tensors(file))
    except RuntimeError:
        raise RunError(f"{file}: its weights are not of the recipe's network; start anew with --fresh") from None


def _read_optimizer_facts(file: Path) -> OptimizerFacts:
    if not file.exists():
        raise RunError(f"{file}: is not there: another version wrote this checkpoint; start anew with --fresh")
    try:
        with safe_open(file, "pt") as opened:
            facts: OptimizerFacts = json.loads(opened.metadata()["optimizer"])
    except SafetensorError as error:
        raise _foreign(file, error) from None
    return facts
