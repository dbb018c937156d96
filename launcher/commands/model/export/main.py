"""`launcher export RUN`: one file, or a folder, checked on real pictures before it gets its name.

B batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from launcher.checkpoint.atomic import HASHES
from launcher.commands.model.export.describe import describe
from launcher.commands.model.export.formats import FORMS, Form, Format, Predict, Probabilities
from launcher.commands.model.infer import check_alone, to_input
from launcher.commands.model.load import TrainedModel, choose_folder, load_trained
from launcher.data.pictures import ImageReader, find_images
from launcher.data.prepare import open_folder, prepare_data
from launcher.data.reader import SampleReader, ShardReader
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.schema import Strategy as StrategySection
from launcher.recipe.url import is_url
from launcher.run.console import Console
from launcher.text import first_line
from shards.manifest import Manifest, ShardsError, fsync_folder, read_manifest

MAX_ERROR = 1e-3
"""Between probabilities of the network and of what was exported; rounding alone makes 1e-6."""
NUM_CHECKED = 32
"""Pictures, spread over the split."""
_EXAMPLES = 2
"""Pictures that a network is traced with: a batch of one would be taken for a constant."""
_SPLITS = ("test", "valid", "train")
"""Whichever is there first is checked on."""


@dataclass(frozen=True, slots=True)
class Options:
    """As `launcher export` takes them. `data`: pictures to check on; None: the run's. `output`: None: by the run."""

    format: Format
    checkpoint: str = "best"
    output: Path | None = None
    data: Path | None = None


def export(run: Path, options: Options) -> int:
    """Raise UserError, and leave nothing, when it cannot be made or does not compute what the network computes."""
    check_alone("export")
    form = FORMS[options.format]
    section = StrategySection(device="cpu", channels_last=False)
    trained = load_trained(run, options.checkpoint, build_strategy(section, World(), 0, False))
    form.check(trained.spec)
    output = options.output or choose_folder(run, "exports") / f"{trained.checkpoint.name}{form.suffix}"
    _check_output(output, options.format)
    reader, origin = _open_pictures(trained, options.data)
    if isinstance(reader, ImageReader) and reader.holds(output):
        raise UserError(f"--output {output}: is one of the pictures; name another")
    samples = [reader.read(number) for number in _spread(reader.num_images)]
    images_BCHW = torch.cat([to_input(sample, trained.augment) for sample in samples])
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        error = _write_checked(output, form, trained, images_BCHW)
    except OSError as problem:
        raise UserError(f"--output {output}: cannot be written ({problem.strerror}); name another") from None
    Console().say(
        f"{output}: {options.format} of {trained.checkpoint.name}; probabilities of {len(images_BCHW)} pictures of "
        f"{origin} differ by at most {error:.1e}"
    )
    return EXIT_DONE


def _check_output(output: Path, name: Format) -> None:
    ending, suffixes = output.suffix.lower(), {form.suffix for form in FORMS.values()}
    its = FORMS[name].suffix
    if ending and ending != its and (name != "hf" or ending in suffixes):
        what = "a folder" if name == "hf" else its
        raise UserError(f"--output {output}: --format {name} is for {what}, not {ending}; name another")
    if output.is_symlink():
        raise UserError(f"--output {output}: is a link; name another")
    if any((folder / HASHES).exists() for folder in output.absolute().parents):
        raise UserError(f"--output {output}: lies in a checkpoint; name another")
    if output.exists() and (name == "hf" or output.is_dir()):
        raise UserError(f"--output {output}: is there already; remove it, or name another")


def _open_pictures(trained: TrainedModel, data: Path | None) -> tuple[SampleReader, str]:
    """Those to check on, and where they come from. Raise UserError when there are none."""
    if data is not None:
        return find_images([str(data)], trained.spec.classes, None), str(data)
    manifest = _find_manifest(trained)
    split = next(each for each in _SPLITS if manifest.num_images(each))
    reader = ShardReader(open_folder(trained.spec.recipe.data, manifest, World()), manifest, split)
    return reader, f"{split} of {trained.spec.recipe.data.dir}"


def _find_manifest(trained: TrainedModel) -> Manifest:
    """Of shards as they are: nothing is packed for a check."""
    data = trained.spec.recipe.data
    if is_url(str(data.dir)):
        return prepare_data(data, World())
    try:
        return read_manifest(data.folder)
    except ShardsError as error:
        raise UserError(f"{error}; or name a folder of pictures to check on with --data") from None


def _spread(num_images: int) -> list[int]:
    numbers: list[int] = np.unique(np.linspace(0, num_images - 1, min(num_images, NUM_CHECKED)).astype(int)).tolist()
    return numbers


def _write_checked(output: Path, form: Form, trained: TrainedModel, images_BCHW: Tensor) -> float:
    """The largest error. Whatever happens, nothing else than `output` is left."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        written = scratch / output.name
        example_BCHW = torch.cat([images_BCHW[:1]] * _EXAMPLES)
        metadata = describe(trained.spec, trained.checkpoint.name)
        with torch.no_grad():
            try:
                form.write(written, trained, metadata, example_BCHW)
            except (RuntimeError, ValueError) as problem:
                raise _impossible(problem) from None
            error = find_error(form.open(written, trained.spec), trained, images_BCHW)
        if form.read_facts(written) != metadata:
            raise UserError(f"{output}: classes or preprocessing are not read back as written; take another --format")
        if not error <= MAX_ERROR:  # nor where it is no number
            raise UserError(
                f"{output}: probabilities differ from the network's by {error:.1e}, more than {MAX_ERROR:.0e}; "
                "nothing is kept; take another --format"
            )
        _bring_to_disk(written)
        written.replace(output)
        fsync_folder(output.parent)
    finally:
        shutil.rmtree(scratch)
    return error


def _impossible(problem: Exception) -> UserError:
    reason = first_line(problem)
    return UserError(f"this network cannot be exported so ({reason}); take another --format")


@torch.no_grad()
def find_error(predict: Predict, trained: TrainedModel, images_BCHW: Tensor) -> float:
    """Largest difference of a probability, of the pictures as one batch and of the first alone. NaN where one is."""
    wanted_BK = Probabilities(trained.network.model).eval()(images_BCHW)
    errors = []
    for batch in (slice(0, 1), slice(None)):
        try:
            found_BK = predict(images_BCHW[batch])
        except Exception as problem:  # of whatever library reads the file
            raise _impossible(problem) from None
        if found_BK.shape != wanted_BK[batch].shape:
            raise UserError(
                f"it gives {tuple(found_BK.shape)} for {len(images_BCHW[batch])} pictures; take another --format"
            )
        errors.append((found_BK - wanted_BK[batch]).abs().max())
    return float(torch.stack(errors).max())


def _bring_to_disk(path: Path) -> None:
    for file in [path] if path.is_file() else path.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
