"""`launcher explain RUN PATHS`: images beside heat maps of the evidence for a class, shared by all ranks.

C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from launcher.augment.execute import Augment
from launcher.commands.model.explain.heat import blend
from launcher.commands.model.explain.methods import (
    Explainer,
    MethodOptions,
    Scores,
    choose_method_options,
    import_captum,
)
from launcher.commands.model.infer import build_eval_strategy, to_input
from launcher.commands.model.load import TrainedModel, choose_folder, load_trained, read_run_spec
from launcher.commands.model.options import ExplainOptions
from launcher.commands.model.unreadable import NameBadSamples
from launcher.data.image_files import ImageReader, find_images
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError, UserError, nearest
from launcher.models.loss import class_scores
from launcher.run.console import Console
from launcher.run.image_grid import find_cell, to_pixels, write_sheet
from shards.console import ConsoleProgress
from shards.progress import SILENT, Progress

READABLE_PIXELS = 192
"""Sides that smaller images are enlarged to, so that there is room for their captions."""


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
            probs_K = class_scores(self.trained.network.model(image_1CHW)).float().softmax(1)[0]
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
    maps = HeatMaps(trained, build_explainer(trained, method_options, strategy), labels, output)
    unreadable = NameBadSamples()
    with ConsoleProgress() if strategy.world.is_first else nullcontext(SILENT) as progress:
        _explain_all(maps, reader, unreadable, strategy, progress)
    strategy.comm.close()  # waits until every rank has written its files
    if strategy.world.is_first:
        num_images = reader.num_images - unreadable.num_reported
        what = f"{len(labels)} classes each" if labels else "the predicted class of each"
        explained = f"{num_images} images explained by {method_options.method}, {what}"
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
        raise UserError(
            f"--output {maps.folder}: cannot be written ({error.strerror}); choose another folder"
        ) from None


def build_explainer(trained: TrainedModel, method_options: MethodOptions, strategy: Strategy) -> Explainer:
    extremes_NC11 = to_extremes(trained.augment).to(strategy.device)
    return Explainer(Scores(trained.network.model).eval(), method_options, extremes_NC11)


def to_extremes(augment: Augment) -> Tensor:
    """A black and a white pixel, normalized: [2, C, 1, 1]."""
    levels_N1 = torch.tensor([[0.0], [1.0]])
    return ((levels_N1 - augment.mean) / augment.std)[:, :, None, None]


def name_file(path: Path, number: int, class_name: str, label: int) -> str:
    """File name of an image's explanation: both numbers in it make it unique."""
    plain, plain_class = (re.sub(r"[^\w.-]+", "_", text)[:60] for text in (path.stem, class_name))
    return f"{number:05d}-{plain}-{label}-{plain_class}.png"


def _find_class(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise UserError(f"--class {name}: the run has no such class{nearest(name, classes)}")
    return classes.index(name)
