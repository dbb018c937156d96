"""`launcher explain RUN PATHS`: images beside heat maps of the evidence for a class, shared by all ranks.

C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from launcher.commands.model.explain.methods import Explainer, choose_method_options, import_captum
from launcher.commands.model.infer import NameBadSamples, Probabilities, build_eval_strategy, to_input
from launcher.commands.model.load import TrainedModel, choose_folder, load_trained, read_run_spec
from launcher.commands.model.options import ExplainOptions
from launcher.data.image_files import ImageReader, find_images
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError, UserError, nearest
from launcher.run.console import Console
from launcher.run.image_grid import Pixels, find_cell, to_pixels, write_sheet
from launcher.text import show_count
from shards.console import ConsoleProgress
from shards.progress import SILENT, Progress

READABLE_PIXELS = 192
"""Sides that smaller images are enlarged to, so that there is room for their captions."""
FULL_PERCENTILE = 98
"""Percentile of the magnitudes at which a color is strongest, so that one pixel cannot make all others pale."""
STRONGEST = 0.7
"""Share of the color there; the rest is the image."""
FOR = (220, 30, 30)
AGAINST = (30, 60, 220)


@dataclass(frozen=True)
class HeatMaps:
    """Writes the PNG files of one run's explanations."""

    trained: TrainedModel
    explainer: Explainer
    labels: Sequence[int]
    """Classes to explain; none: the predicted class of each image."""
    folder: Path

    def write(self, reader: ImageReader, number: int) -> None:
        """A file for each class, of image `number`. Raise DataError when it cannot be read, OSError when a file cannot
        be written.
        """
        image_1CHW = to_input(reader.read(number), self.trained.augment).to(self.explainer.extremes_NC11.device)
        self.folder.mkdir(parents=True, exist_ok=True)
        with torch.no_grad():
            [probs_K] = Probabilities(self.trained.model)(image_1CHW)
        [pixels_HWC] = to_pixels(image_1CHW, self.trained.augment.mean, self.trained.augment.std)
        cell, path = find_cell(pixels_HWC.shape[:2], READABLE_PIXELS), Path(reader.name_of(number))
        for label in self.labels or [int(probs_K.argmax())]:
            heat_HW = self.explainer(image_1CHW, label, number)
            name = self.trained.spec.classes[label]
            blended_HWC = blend(pixels_HWC, heat_HW.cpu().numpy())
            row = [(path.name, pixels_HWC), (f"{name}: {probs_K[label]:.0%}", blended_HWC)]
            write_sheet([row], cell, self.folder / name_file(path, number, name, label))


def explain(run: Path, paths: Sequence[str], options: ExplainOptions) -> int:
    """Write a PNG for each image and class, and return the exit code: 1 when an image cannot be read.

    Every rank runs this. Raise UserError or RunError when an argument is wrong; raise UserError and write nothing when
    no image can be read.
    """
    method_options = choose_method_options(options)
    import_captum()
    run_classes = read_run_spec(run, options.checkpoint).classes
    labels = [_find_class(name, run_classes) for name in dict.fromkeys(options.class_)]
    reader = find_images(paths, run_classes, None)
    strategy = build_eval_strategy(options.device)
    trained = load_trained(run, options.checkpoint, strategy)
    output = options.output or choose_folder(run, "explanations")
    levels_N1 = torch.tensor([[0.0], [1.0]])  # black and white
    extremes_NC11 = ((levels_N1 - trained.augment.mean) / trained.augment.std)[:, :, None, None].to(strategy.device)
    maps = HeatMaps(trained, Explainer(trained.model, method_options, extremes_NC11), labels, output)
    unreadable = NameBadSamples()
    with ConsoleProgress() if strategy.world.is_first else nullcontext(SILENT) as progress:
        _explain_all(maps, reader, unreadable, strategy, progress)
    strategy.comm.close()  # waits until every rank has written its files
    if strategy.world.is_first:
        num_images = reader.num_images - unreadable.num_reported
        what = f"{show_count(len(labels), 'class')} each" if labels else "the predicted class of each"
        explained = f"{show_count(num_images, 'image')} explained by {method_options.method}, {what}"
        Console().say(f"{output}: {explained}{unreadable.describe()}")
    return unreadable.exit_code


def _explain_all(
    maps: HeatMaps, reader: ImageReader, unreadable: NameBadSamples, strategy: Strategy, progress: Progress
) -> None:
    """Rank r of P takes every P-th image from the r-th on. Raise UserError when no image can be read."""
    try:
        for start in range(0, reader.num_images, strategy.world.size):
            number = start + strategy.world.rank
            if number < reader.num_images:
                try:
                    maps.write(reader, number)
                except DataError as error:
                    unreadable.note(number, error)
            unreadable.report(strategy.comm, progress.note)
        unreadable.check_any_readable(reader.num_images)
    except OSError as error:
        what = f"--output {maps.folder}: cannot be written ({error.strerror})"
        raise UserError(f"{what}; choose another folder") from None


def blend(pixels_HWC: Pixels, heat_HW: npt.NDArray[np.float32]) -> Pixels:
    """The heat over the image: red is evidence for the class, blue against it. A copy where there is no heat at all."""
    magnitudes_HW = np.abs(heat_HW)
    full = float(np.percentile(magnitudes_HW, FULL_PERCENTILE)) or float(magnitudes_HW.max())
    if full == 0:
        return pixels_HWC.copy()
    alpha_HW1 = STRONGEST * np.minimum(magnitudes_HW / full, 1)[..., None]
    colors_HWC = np.where(heat_HW[..., None] > 0, FOR, AGAINST)
    blended: Pixels = ((1 - alpha_HW1) * pixels_HWC + alpha_HW1 * colors_HWC).round().astype(np.uint8)
    return blended


def name_file(path: Path, number: int, class_name: str, label: int) -> str:
    """File name of an image's explanation: both numbers in it make it unique."""
    plain, plain_class = (re.sub(r"[^\w.-]+", "_", text)[:60] for text in (path.stem, class_name))
    return f"{number:05d}-{plain}-{label}-{plain_class}.png"


def _find_class(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise UserError(f"--class {name}: the run has no such class{nearest(name, classes)}")
    return classes.index(name)
