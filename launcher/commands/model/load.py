"""A trained network, loaded from a run's folder or from a single checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from launcher.augment.execute import Augment, build_augment
from launcher.checkpoint.atomic import check_file, read_hashes
from launcher.checkpoint.network_spec import SPEC_NAME, NetworkSpec, read_spec
from launcher.checkpoint.restore import load_weights
from launcher.checkpoint.state import step_name
from launcher.commands.model.options import DEFAULT_CHECKPOINT
from launcher.distributed.strategy import Strategy
from launcher.errors import CheckpointError, RunError, nearest_path
from launcher.models.loss import count_outputs
from launcher.models.zoo import build_trained
from launcher.recipe.lock import LOCK_NAME

_POINTERS = (DEFAULT_CHECKPOINT, "last")
_ADVICE = "give a run's folder, runs/NAME/DATE-..., or one of its checkpoints"


@dataclass(frozen=True)
class TrainedModel:
    checkpoint: Path
    """Folder of the checkpoint."""
    spec: NetworkSpec
    model: nn.Module
    """On the strategy's device, in eval mode, with averaged weights where the recipe keeps them."""
    augment: Augment
    """The transform of a validation or test split."""


def load_trained(path: Path, which: str, strategy: Strategy) -> TrainedModel:
    """`path`: a run's folder, or a checkpoint; `which` of a run's checkpoints: best, last or a step number.

    Called by every rank. Raise RunError when it does not exist or is damaged.
    """
    # Rank 0 decides: while a training runs, `best` may be another checkpoint a moment later.
    checkpoint = strategy.comm.run_on_rank0(lambda: find_checkpoint(path, which))
    spec = _read_spec(checkpoint)
    model = build_network(spec)
    with _as_run_error():
        load_weights(checkpoint, model, ema=spec.recipe.optim.ema_decay is not None)
    augment = build_augment(spec.recipe.augment.eval_ops, spec.mean, spec.std, strategy.memory_format)
    return TrainedModel(checkpoint, spec, strategy.to_device(model).eval(), augment)


def build_network(spec: NetworkSpec) -> nn.Module:
    """The network of a checkpoint, without its weights."""
    return build_trained(spec.recipe.backbone, count_outputs(spec.recipe.loss, len(spec.classes))).model


def read_run_spec(path: Path, which: str) -> NetworkSpec:
    """The spec of what `load_trained` loads. Raise RunError when it does not exist or is damaged."""
    return _read_spec(find_checkpoint(path, which))


def _read_spec(checkpoint: Path) -> NetworkSpec:
    with _as_run_error():
        check_file(checkpoint / SPEC_NAME, read_hashes(checkpoint).get(SPEC_NAME, ""))
        return read_spec(checkpoint)


@contextmanager
def _as_run_error() -> Iterator[None]:
    """Turn CheckpointError into an error for the user. A training takes an older checkpoint instead."""
    try:
        yield
    except CheckpointError as error:
        raise RunError(f"{error}; choose another checkpoint with --checkpoint") from None


def find_checkpoint(path: Path, which: str) -> Path:
    """Raise RunError when there is none of that name."""
    if not path.is_dir():
        what = "not a folder" if path.exists() else "no such folder"
        raise RunError(f"{path}: {what}; {_ADVICE}{nearest_path(path)}")
    if (path / SPEC_NAME).exists():
        if which != DEFAULT_CHECKPOINT:
            advice = "leave the option out, or give the run's folder"
            raise RunError(f"--checkpoint {which}: {path} is a checkpoint itself; {advice}")
        return path.resolve()
    if not (path / LOCK_NAME).exists():
        what = f"neither a run's folder nor a checkpoint: it has no {LOCK_NAME} and no {SPEC_NAME}"
        raise RunError(f"{path}: {what}; {_ADVICE}")
    folder = path / "checkpoints"
    steps = sorted(each.name for each in folder.glob("step-*"))
    if not steps:
        raise RunError(f"{path}: no checkpoint yet; train it first, or wait for the first save")
    found = folder / (step_name(int(which)) if which.isdecimal() else which)
    if (which in _POINTERS or which.isdecimal()) and found.is_dir():
        return found.resolve()
    pointers = [name for name in _POINTERS if (folder / name).is_dir()]
    numbers = [str(int(name.removeprefix("step-"))) for name in steps]
    raise RunError(f"--checkpoint {which}: no such checkpoint; valid: {', '.join([*pointers, *numbers])}")


def choose_folder(run: Path, name: str) -> Path:
    """The default output folder of a command: `name` in the run's folder, also where `run` is one of its checkpoints.

    For a single checkpoint, which must not change, `name` in the working directory. Raise RunError when a part of
    `name` is a symbolic link: nothing is written through one.
    """
    home = next((each for each in (run, run.parent.parent) if (each / LOCK_NAME).exists()), Path())
    folder = home / name
    for part in (folder, *folder.parents):
        if part == home:
            break
        if part.is_symlink():
            raise RunError(f"{part}: is a symbolic link; remove it, or choose another folder with --output")
    return folder
