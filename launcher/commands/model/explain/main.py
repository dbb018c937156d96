"""`launcher explain RUN PATHS`: pictures beside what of them speaks for a class, shared by all processes.

C channels, H x W pixels, K classes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from launcher.augment.pipeline import Augment
from launcher.commands.model.explain.heat import blend
from launcher.commands.model.explain.methods import Explainer, MethodOptions, Scores, import_captum
from launcher.commands.model.infer import Device, build_eval_strategy, to_input
from launcher.commands.model.load import TrainedModel, choose_folder, load_trained, read_run_spec
from launcher.commands.model.unreadable import NameBadSamples
from launcher.data.pictures import ImageReader, find_images
from launcher.distributed.strategy import Strategy
from launcher.distributed.world import read_world
from launcher.errors import DataError, UserError, nearest
from launcher.models.loss import class_scores
from launcher.recipe.schema import Strategy as StrategySection
from launcher.run.console import Console
from launcher.run.pictures import find_cell, to_pixels, write_sheet
from shards.console import ConsoleProgress
from shards.progress import SILENT

READABLE_PIXELS = 192
"""Sides that smaller pictures are enlarged to, so that there is room for their captions."""


@dataclass(frozen=True, slots=True)
class Options:
    """As `launcher explain` takes them. `classes`: names; none: the class that the network names for each picture."""

    method_options: MethodOptions
    classes: tuple[str, ...] = ()
    checkpoint: str = "best"
    output: Path | None = None
    device: Device = "auto"


def explain(run: Path, paths: Sequence[str], options: Options) -> int:
    """Write a PNG for each picture and class, and return the exit code: 1 when a picture could not be read.

    Of P processes, process r takes every P-th picture from the r-th on. Raise UserError or RunError when run, class or
    something that was named is not to be had; UserError when no picture could be read, and write nothing.
    """
    import_captum()
    run_classes = read_run_spec(run, options.checkpoint).classes
    labels = [_find_class(name, run_classes) for name in dict.fromkeys(options.classes)]
    reader = find_images(paths, run_classes, None)
    strategy = build_eval_strategy(StrategySection(), options.device, read_world(os.environ))
    trained = load_trained(run, options.checkpoint, strategy)
    output = options.output or choose_folder(run, "explanations")
    explainer, unreadable = build_explainer(trained, options.method_options, strategy), NameBadSamples()
    with ConsoleProgress() if strategy.world.is_first else nullcontext(SILENT) as progress:
        try:
            for start in range(0, reader.num_images, strategy.world.size):
                number = start + strategy.world.rank
                if number < reader.num_images:
                    _explain_or_note(reader, number, labels, trained, explainer, output, unreadable)
                unreadable.report(strategy.comm, progress.note)
            unreadable.check_some_can(reader.num_images)
        except OSError as error:
            raise UserError(f"--output {output}: cannot be written ({error.strerror}); name another folder") from None
    strategy.comm.close()  # which waits until every process has written its own
    if strategy.world.is_first:
        what = f"{len(labels)} classes each" if labels else "the predicted class of each"
        explained = (
            f"{reader.num_images - unreadable.num_told} pictures explained by {options.method_options.method}, {what}"
        )
        Console().say(f"{output}: {explained}{unreadable.describe()}")
    return unreadable.exit_code


def build_explainer(trained: TrainedModel, method_options: MethodOptions, strategy: Strategy) -> Explainer:
    extremes_NC11 = to_extremes(trained.augment).to(strategy.device)
    return Explainer(Scores(trained.network.model).eval(), method_options, extremes_NC11)


def to_extremes(augment: Augment) -> Tensor:
    """A black and a white pixel, normalised: [2, C, 1, 1]."""
    levels_N1 = torch.tensor([[0.0], [1.0]])
    return ((levels_N1 - augment.mean) / augment.std)[:, :, None, None]


def _explain_or_note(
    reader: ImageReader,
    number: int,
    labels: Sequence[int],
    trained: TrainedModel,
    explainer: Explainer,
    output: Path,
    unreadable: NameBadSamples,
) -> None:
    try:
        image_1CHW = to_input(reader.read(number), trained.augment)
    except DataError as error:
        unreadable.note(number, error)
        return
    output.mkdir(parents=True, exist_ok=True)
    path = Path(reader.name_of(number))
    _explain_picture(image_1CHW.to(explainer.extremes_NC11.device), path, number, labels, trained, explainer, output)


def _explain_picture(
    image_1CHW: Tensor,
    path: Path,
    number: int,
    labels: Sequence[int],
    trained: TrainedModel,
    explainer: Explainer,
    output: Path,
) -> None:
    with torch.no_grad():
        probs_K = class_scores(trained.network.model(image_1CHW)).float().softmax(1)[0]
    [pixels_HWC] = to_pixels(image_1CHW, trained.augment.mean, trained.augment.std)
    cell = find_cell(pixels_HWC.shape[:2], READABLE_PIXELS)
    for label in labels or [int(probs_K.argmax())]:
        heat_HW = explainer(image_1CHW, label, number)
        name = trained.spec.classes[label]
        blended_HWC = blend(pixels_HWC, heat_HW.cpu().numpy())
        row = [(path.name, pixels_HWC), (f"{name}: {probs_K[label]:.0%}", blended_HWC)]
        write_sheet([row], cell, output / name_file(path, number, name, label))


def name_file(path: Path, number: int, class_name: str, label: int) -> str:
    """No two pictures, and no two classes, have the same: both numbers are in it."""
    plain, plain_class = (re.sub(r"[^\w.-]+", "_", text)[:60] for text in (path.stem, class_name))
    return f"{number:05d}-{plain}-{label}-{plain_class}.png"


def _find_class(name: str, classes: Sequence[str]) -> int:
    if name not in classes:
        raise UserError(f"--class {name}: the run has no such class{nearest(name, classes)}")
    return classes.index(name)
