"""`launcher export RUN`: a file or folder, checked on real images before it gets its name.

B batch, C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from launcher.checkpoint.atomic import HASHES
from launcher.commands.model.export.describe import describe
from launcher.commands.model.export.formats import EXPORTERS, Exporter, Predict
from launcher.commands.model.infer import Probabilities, to_input
from launcher.commands.model.load import TrainedModel, choose_folder, load_trained
from launcher.commands.model.options import ExportFormat, ExportOptions
from launcher.data.image_files import ImageReader, find_images
from launcher.data.prepare import open_folder, prepare_data
from launcher.data.reader import SampleReader, ShardReader
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World, read_world
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.schema import Strategy as StrategySection
from launcher.recipe.url import is_url
from launcher.run.console import Console
from launcher.text import first_line, show_count
from shards.files import commit_folder
from shards.manifest import ShardsError, read_manifest

MAX_ERROR = 1e-3
"""Largest allowed difference between a probability of the network and of the export; rounding alone makes 1e-6."""
NUM_CHECKED = 32
"""Images to check on, spread over the split."""
TRACED_BATCH = 2
"""Images that a network is traced with: a batch of one would be taken for a constant."""
SPLITS = ("test", "valid", "train")
"""The first one that has images is checked on."""


def export(run: Path, options: ExportOptions) -> int:
    """Write the file or folder. Raise UserError, and leave nothing, when it does not compute what the network does."""
    if read_world(os.environ).size > 1:
        raise UserError("export: runs as one process; start it without accelerate launch, torchrun or srun")
    exporter = EXPORTERS[options.format]
    section = StrategySection(device="cpu", channels_last=False)
    trained = load_trained(run, options.checkpoint, build_strategy(section, World(), 0, False))
    exporter.check(trained.spec)
    output = options.output or choose_folder(run, "exports") / f"{trained.checkpoint.name}{exporter.suffix}"
    _check_output(output, options.format)
    reader, origin = _open_images(trained, options.data)
    if isinstance(reader, ImageReader) and reader.holds(output):
        raise UserError(f"--output {output}: is one of the images; choose another")
    num_checked = min(reader.num_images, NUM_CHECKED)
    numbers = np.unique(np.linspace(0, reader.num_images - 1, num_checked).astype(int)).tolist()
    samples = [reader.read(number) for number in numbers]
    images_BCHW = torch.cat([to_input(sample, trained.augment) for sample in samples])
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        error = _write_checked(output, exporter, trained, images_BCHW)
    except OSError as problem:
        raise UserError(f"--output {output}: cannot be written ({problem.strerror}); choose another") from None
    checked = f"probabilities of {show_count(len(images_BCHW), 'image')} of {origin} differ by at most {error:.1e}"
    Console().say(f"{output}: {options.format} of {trained.checkpoint.name}; {checked}")
    return EXIT_DONE


def _check_output(output: Path, name: ExportFormat) -> None:
    suffix, suffixes = output.suffix.lower(), {exporter.suffix for exporter in EXPORTERS.values()}
    right = EXPORTERS[name].suffix
    if suffix and suffix != right and (name != "hf" or suffix in suffixes):
        what = "a folder" if name == "hf" else right
        raise UserError(f"--output {output}: --format {name} is for {what}, not {suffix}; choose another")
    if output.is_symlink():
        raise UserError(f"--output {output}: is a symbolic link; choose another")
    if any((folder / HASHES).exists() for folder in output.absolute().parents):
        raise UserError(f"--output {output}: is inside a checkpoint; choose another")
    if output.exists() and (name == "hf" or output.is_dir()):
        raise UserError(f"--output {output}: exists already; remove it, or choose another")


def _open_images(trained: TrainedModel, data: Path | None) -> tuple[SampleReader, str]:
    """The images to check on, and where they are from. Raise UserError when there are none."""
    if data is not None:
        return find_images([str(data)], trained.spec.classes, None), str(data)
    section = trained.spec.recipe.data
    if is_url(str(section.dir)):
        manifest = prepare_data(section, World())
    else:
        try:
            manifest = read_manifest(section.folder)  # nothing is packed for a check
        except ShardsError as error:
            raise UserError(f"{error}; or give a folder of images to check on with --data") from None
    split = next(each for each in SPLITS if manifest.num_images(each))
    reader = ShardReader(open_folder(section, manifest, World()), manifest, split)
    return reader, f"{split} of {section.dir}"


def _write_checked(output: Path, exporter: Exporter, trained: TrainedModel, images_BCHW: Tensor) -> float:
    """Write `output` and return its largest error. Nothing else is left, whatever happens."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        written = scratch / output.name
        example_BCHW = torch.cat([images_BCHW[:1]] * TRACED_BATCH)
        metadata = describe(trained.spec, trained.checkpoint.name)
        with torch.no_grad():
            try:
                exporter.write(written, trained, metadata, example_BCHW)
            except (RuntimeError, ValueError) as problem:
                raise _impossible(problem) from None
            error = find_error(exporter.open(written, trained.spec), trained, images_BCHW)
        if exporter.read_metadata(written) != metadata:
            raise UserError(f"{output}: classes or preprocessing are not read back as written; choose another --format")
        if not error <= MAX_ERROR:  # NaN, too
            raise UserError(
                f"{output}: probabilities differ from the network's by {error:.1e}, more than {MAX_ERROR:.0e}; "
                "nothing is written; choose another --format"
            )
        commit_folder(written, output)
    finally:
        shutil.rmtree(scratch)
    return error


def _impossible(problem: Exception) -> UserError:
    return UserError(f"this network cannot be exported in this format ({first_line(problem)}); choose another --format")


@torch.no_grad()
def find_error(predict: Predict, trained: TrainedModel, images_BCHW: Tensor) -> float:
    """Largest difference of a probability, over all images as one batch and the first alone. NaN where one is NaN."""
    wanted_BK = Probabilities(trained.model).eval()(images_BCHW)
    errors = []
    for batch in (slice(0, 1), slice(None)):
        try:
            found_BK = predict(images_BCHW[batch])
        except Exception as problem:  # whichever library reads the file
            raise _impossible(problem) from None
        if found_BK.shape != wanted_BK[batch].shape:
            what = f"its output for {len(images_BCHW[batch])} images has the shape {tuple(found_BK.shape)}"
            raise UserError(f"this network cannot be exported in this format: {what}; choose another --format")
        errors.append((found_BK - wanted_BK[batch]).abs().max())
    return float(torch.stack(errors).max())
