"""A network as a run left it, opened from the run's folder or from one checkpoint alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from launcher.augment.pipeline import Augment, build_augment
from launcher.checkpoint.atomic import check_file, read_hashes
from launcher.checkpoint.network_spec import SPEC_NAME, NetworkSpec, read_spec
from launcher.checkpoint.restore import load_weights
from launcher.checkpoint.state import step_name
from launcher.distributed.strategy import Strategy
from launcher.errors import CheckpointError, RunError, nearest_path
from launcher.models.loss import count_outputs
from launcher.models.zoo import Network, build_trained
from launcher.recipe.lock import LOCK_NAME

DEFAULT = "best"
_POINTERS = (DEFAULT, "last")
_WANTED = "give a run's folder, runs/NAME/DATE-..., or one of its checkpoints"


@dataclass(frozen=True)
class TrainedModel:
    """`checkpoint`: the folder it comes from. `network`: on the strategy's device, for evaluation."""

    checkpoint: Path
    spec: NetworkSpec
    network: Network
    augment: Augment
    """What images of a validation or test split go through."""


def load_trained(path: Path, which: str, strategy: Strategy) -> TrainedModel:
    """`path`: a run's folder, or a checkpoint; `which` of a run's checkpoints: best, last or a step's number.

    With averaged weights, where the recipe keeps them. Raise RunError when it is not there, or not whole. The first
    process says which it is: while a training goes on, `best` may be another a moment later.
    """
    checkpoint = strategy.comm.run_on_rank0(lambda: find_checkpoint(path, which))
    spec = _read_spec(checkpoint)
    recipe = spec.recipe
    network = build_trained(recipe.backbone, count_outputs(recipe.loss, len(spec.classes)))
    with _said_of_a_run():
        load_weights(checkpoint, network.model, ema=recipe.optim.ema_decay is not None)
    network = replace(network, model=strategy.place(network.model).eval())
    augment = build_augment(recipe.augment.eval_ops, spec.mean, spec.std, strategy.memory_format)
    return TrainedModel(checkpoint, spec, network, augment)


def read_run_spec(path: Path, which: str) -> NetworkSpec:
    """What `load_trained` opens, without its network. Raise RunError when it is not there, or not whole."""
    return _read_spec(find_checkpoint(path, which))


def _read_spec(checkpoint: Path) -> NetworkSpec:
    with _said_of_a_run():
        check_file(checkpoint / SPEC_NAME, read_hashes(checkpoint).get(SPEC_NAME, ""))
        return read_spec(checkpoint)


@contextmanager
def _said_of_a_run() -> Iterator[None]:
    """A damaged checkpoint of a training is skipped; of a run that was named, the user is told."""
    try:
        yield
    except CheckpointError as error:
        raise RunError(f"{error}; choose another checkpoint with --checkpoint") from None


def find_checkpoint(path: Path, which: str) -> Path:
    """Raise RunError when there is none of that name."""
    if not path.is_dir():
        raise RunError(f"{path}: {'is no' if path.exists() else 'no such'} folder; {_WANTED}{nearest_path(path)}")
    if (path / SPEC_NAME).exists():
        if which != DEFAULT:
            raise RunError(f"--checkpoint {which}: {path} is one itself; leave it out, or name the run's folder")
        return path.resolve()
    if not (path / LOCK_NAME).exists():
        what = f"neither a run's folder nor a checkpoint: has no {LOCK_NAME} and no {SPEC_NAME}"
        raise RunError(f"{path}: {what}; {_WANTED}")
    folder = path / "checkpoints"
    steps = sorted(each.name for each in folder.glob("step-*"))
    if not steps:
        raise RunError(f"{path}: has no checkpoint yet; train it first, or wait for the first save")
    found = folder / (step_name(int(which)) if which.isdecimal() else which)
    if (which in _POINTERS or which.isdecimal()) and found.is_dir():
        return found.resolve()
    pointers = [name for name in _POINTERS if (folder / name).is_dir()]
    numbers = [str(int(name.removeprefix("step-"))) for name in steps]
    raise RunError(f"--checkpoint {which}: there are {', '.join([*pointers, *numbers])}")


def choose_folder(run: Path, name: str) -> Path:
    """Where a verb writes unless it is told: `name` in the folder of the run, also of the one that the checkpoint `run`
    is in; of a checkpoint alone, to which nothing is to be added, in the working directory. Raise RunError when a part
    of `name` is a link: nothing is written through one.
    """
    home = next((each for each in (run, run.parent.parent) if (each / LOCK_NAME).exists()), Path())
    folder = home / name
    for part in (folder, *folder.parents):
        if part == home:
            break
        if part.is_symlink():
            raise RunError(f"{part}: is a link; a run writes through none: remove it, or name a place with --output")
    return folder
