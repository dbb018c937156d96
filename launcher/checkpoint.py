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

import json
import pickle
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from launcher.commit import check_file, check_folder, commit, find_newest, point, prune, read_hashes
from launcher.errors import CheckpointError, RunError
from launcher.log.journal import render_json
from launcher.metrics import Figures
from launcher.strategy import Strategy, read_rng, seed_rank, write_rng


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


@dataclass(frozen=True, slots=True)
class Start:
    """Where a run begins, or goes on. `path`: the checkpoint; None at the beginning."""

    path: Path | None
    progress: Progress


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
    state.strategy.on_first(lambda: _write_or_explain(folder, state, progress, rngs, keep))


def save_weights(folder: Path, state: TrainState) -> None:
    """Write the network alone, as step 0, `last` and `best`: of what was fitted in no steps. Called by rank 0 alone."""
    name = step_name(0)
    temporary = folder / f".{name}.tmp"
    try:
        temporary.mkdir(parents=True)
        save_file(_plain(state.model), temporary / "model.safetensors", metadata={"format": "pt"})
        (temporary / "state.json").write_text(render_json({**asdict(Progress()), **_facts(state, 1)}, indent=1))
        commit(temporary, folder / name)
        for link in ("last", "best"):
            point(folder, link, name)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise RunError(f"{folder / name}: cannot be written ({' '.join(str(error).split())})") from None


def _write_or_explain(
    folder: Path, state: TrainState, progress: Progress, rngs: list[dict[str, Tensor]], keep: int
) -> None:
    try:
        _write(folder, state, progress, rngs, keep)
    except (OSError, RuntimeError, SafetensorError) as error:  # a full disk is each of these to somebody
        name, reason = step_name(progress.step), " ".join(str(error).split())
        raise RunError(f"{folder / name}: cannot be written ({reason}); the one before it stands") from None


def _write(folder: Path, state: TrainState, progress: Progress, rngs: list[dict[str, Tensor]], keep: int) -> None:
    name = step_name(progress.step)
    temporary = folder / f".{name}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(_plain(state.model), temporary / "model.safetensors", metadata={"format": "pt"})
    if state.ema is not None:
        save_file(_plain(state.ema.module), temporary / "ema.safetensors", metadata={"format": "pt"})
    optimizer = {"optimizer": state.optimizer.state_dict(), "names": _names_by_group(state)}
    torch.save({**optimizer, "scaler": state.strategy.scaler_state}, temporary / "optimizer.pt")
    save_file(
        {f"{rank}.{k}": v for rank, rng in enumerate(rngs) for k, v in rng.items()}, temporary / "rng.safetensors"
    )
    (temporary / "state.json").write_text(render_json({**asdict(progress), **_facts(state, len(rngs))}, indent=1))
    commit(temporary, folder / name)
    point(folder, "last", name)
    if progress.best is not None and progress.best.step == progress.step:
        point(folder, "best", name)
    prune(folder, name, keep)


def _facts(state: TrainState, world_size: int) -> dict[str, Any]:
    return {"wandb_id": state.wandb_id, "data_sha256": state.data_sha256, "world_size": world_size}


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
    try:
        saved = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # torch's own words advise to execute it
        raise RunError(f"{path / 'optimizer.pt'}: holds more than tensors; start anew with --fresh") from None
    _check_optimizer(state, saved, path)
    groups = state.optimizer.state_dict()["param_groups"]
    state.optimizer.load_state_dict({"state": saved["optimizer"]["state"], "param_groups": groups})
    state.strategy.restore_scaler(saved["scaler"])
    world = state.strategy.world
    if _read_state(path)["world_size"] == world.size:
        rng = load_file(path / "rng.safetensors")
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
    return Progress(facts["step"], best, facts["stale"], facts["last_valid"])


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


def _load_into(model: nn.Module, file: Path) -> None:
    try:
        model.load_state_dict(load_file(file))
    except RuntimeError:
        raise RunError(f"{file}: its weights are not of the recipe's network; start anew with --fresh") from None


def _check_optimizer(state: TrainState, saved: dict[str, Any], path: Path) -> None:
    """Raise RunError when it is of another kind or stepped other parameters.

    Learning rate, weight decay and momentum are the recipe's, which may have been changed.
    """
    old, new = saved["optimizer"]["param_groups"], state.optimizer.state_dict()["param_groups"]
    # A stage of freezing that begins right here has added groups behind those that were saved.
    is_same_kind = ["betas" in group for group in old] == ["betas" in group for group in new[: len(old)]]
    if not is_same_kind or saved.get("names") != _names_by_group(state)[: len(old)]:
        raise RunError(f"{path}: its optimizer is not the recipe's, or trained other weights; start anew with --fresh")


def _names_by_group(state: TrainState) -> list[list[str]]:
    """Names of the parameters in each group of the optimizer."""
    names = {id(parameter): name for name, parameter in state.model.named_parameters()}
    return [[names[id(parameter)] for parameter in group["params"]] for group in state.optimizer.param_groups]


def _plain(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
