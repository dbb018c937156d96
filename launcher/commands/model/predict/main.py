"""`launcher predict RUN PATH...`: names and probabilities for any pictures, as they come from the disk.

B batch, C channels, H x W pixels, K classes, T the best classes of an image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from launcher.commands.model.infer import TEST_TRANSFORMS, Device, build_feed
from launcher.commands.model.predict.classifier import Classifier, find_classifier
from launcher.commands.model.predict.output import FORMATS, Prediction, Write, choose_format, find_width, open_output
from launcher.commands.model.unreadable import NameBadSamples
from launcher.data.feed import Examples, ImageFeed
from launcher.data.pictures import UNKNOWN, find_images
from launcher.data.reader import SampleReader
from launcher.distributed.signals import follow_launcher
from launcher.errors import UserError
from launcher.models.loss import class_scores
from launcher.run.journal import JOURNAL_NAME
from launcher.run.pictures import Captioned, find_cell, to_pixels, write_sheet
from shards.console import ConsoleProgress
from shards.progress import SILENT, Progress

BATCH = 32
"""Pictures of a forward pass. Small, because pictures of any size are in memory for it where a GPU computes."""
GRID_IMAGES = 64
GRID_COLUMNS = 8


@dataclass(frozen=True, slots=True)
class Options:
    """As `launcher predict` takes them. `split`: of folders of shards; None: all of them."""

    top: int = 5
    format: str | None = None
    output: Path | None = None
    grid: Path | None = None
    flips: bool = False
    checkpoint: str | None = None
    split: str | None = None
    device: Device = "auto"

    def files(self) -> list[tuple[str, Path]]:
        """Those to be written, after their options."""
        named = (("output", self.output), ("grid", self.grid))
        return [(name, file) for name, file in named if file is not None]


@dataclass(frozen=True, slots=True)
class _Share:
    """What a process has made of its batch of a round; of no batch, where there are none left."""

    predictions: list[Prediction] = field(default_factory=list)
    cells: list[Captioned] = field(default_factory=list)
    num_images: int = 0


@dataclass
class _Tally:
    """What came of the pictures, and the first of them as the network saw them. The same on every process."""

    num_images: int = 0
    num_known: int = 0
    num_right: int = 0
    cells: list[Captioned] = field(default_factory=list)

    def add(self, prediction: Prediction) -> None:
        self.num_images += 1
        self.num_known += prediction.truth is not None
        self.num_right += prediction.is_right

    def describe(self) -> str:
        share = f", accuracy {self.num_right / self.num_known:.2%} of the {self.num_known:,}" if self.num_known else ""
        known = f"{share} whose class is known" if share else ""
        return f"{self.num_images:,} pictures{known}"


def predict(run: str, paths: Sequence[str], options: Options) -> int:
    """Predict, write, and return the exit code: 1 when a picture could not be read. Every rank runs this.

    Raise UserError, RunError or ShardsError before anything is computed when something that was named is not there;
    UserError when no picture could be read, and write nothing.
    """
    follow_launcher()
    _check_options(options)
    found = find_classifier(run, options.checkpoint, options.device)
    reader = find_images(paths, found.classes, options.split)
    for name, file in options.files():
        if reader.holds(file):
            raise UserError(f"--{name} {file}: is one of the pictures; name another")
    c = found.open()
    is_first, tally, unreadable = c.strategy.world.is_first, _Tally(), NameBadSamples()
    with ConsoleProgress() if is_first else nullcontext(SILENT) as progress:
        for note in c.notes:
            progress.note(note)
        with ExitStack() as stack:
            write = _open_on_first(options.output, c, stack)
            feed = build_feed(reader, c.augment, c.strategy, unreadable)
            stack.enter_context(closing(feed.loader))
            num_best = min(options.top, len(c.classes))
            predictions = _predict_all(c, feed, reader, num_best, options, progress, tally, unreadable)
            render = FORMATS[choose_format(options.format, options.output)]
            for text in render(predictions, num_best, find_width(options.output)):
                write(text)
            unreadable.check_some_can(reader.num_images)
        if options.grid is not None and is_first and tally.cells:
            _write_grid(tally.cells, options.grid)
        progress.note(tally.describe() + unreadable.describe())
    c.strategy.comm.close()
    return unreadable.exit_code


def _open_on_first(output: Path | None, c: Classifier, stack: ExitStack) -> Write:
    """The others write nothing, and know when rank 0 cannot."""
    writes: list[Write] = [lambda _text: None]

    def open_it() -> None:
        writes.append(stack.enter_context(open_output(output)))

    c.strategy.comm.run_on_rank0(open_it)
    return writes[-1]


def _check_options(options: Options) -> None:
    if options.top < 1:
        raise UserError(f"--top {options.top}: must be at least 1")
    if options.grid is not None and options.grid.suffix.lower() != ".png":
        raise UserError(f"--grid {options.grid}: must end in .png")
    choose_format(options.format, options.output)
    for name, file in options.files():
        if file.exists() and not file.is_file():
            raise UserError(f"--{name} {file}: is no file; name another")
        if not file.absolute().parent.is_dir():
            raise UserError(f"--{name} {file}: there is no folder {file.parent}; make it first")
        if file.name == JOURNAL_NAME and file.exists():
            raise UserError(f"--{name} {file}: is the journal of a run; name another")


def _predict_all(
    c: Classifier,
    feed: ImageFeed,
    reader: SampleReader,
    num_best: int,
    options: Options,
    progress: Progress,
    tally: _Tally,
    unreadable: NameBadSamples,
) -> Iterator[Prediction]:
    """Those of all pictures that can be read, in order, on every process; `tally` is kept on the way.

    Of P processes, each has every P-th batch; after each P batches they tell one another.
    """
    world, starts = c.strategy.world, range(0, reader.num_images, BATCH)
    mine = ((0, np.arange(start, min(start + BATCH, reader.num_images))) for start in starts[world.rank :: world.size])
    batches = iter(feed.batches(mine))
    num_done = 0
    for _ in range(0, len(starts), world.size):
        with_cells = options.grid is not None and len(tally.cells) < GRID_IMAGES
        share = _predict_share(c, next(batches, None), reader, num_best, options.flips, with_cells)
        unreadable.report(c.strategy.comm, progress.note)
        for each in c.strategy.comm.all_gather_object(share):
            tally.cells += each.cells
            for prediction in each.predictions:
                tally.add(prediction)
                yield prediction
            num_done += each.num_images
        progress.update("predict", num_done, reader.num_images)


def _predict_share(
    c: Classifier,
    examples: Examples | None,
    reader: SampleReader,
    num_best: int,
    flips: bool,
    with_cells: bool,
) -> _Share:
    if examples is None:
        return _Share()
    probs_BK = predict_batch(c, examples.inputs[0], flips)
    predictions = _name_best(probs_BK, examples, c.classes, reader, num_best)
    cells = [*_draw_cells(predictions, examples, c)] if with_cells else []
    return _Share(predictions, cells, len(examples.ids_B))


@torch.inference_mode()
def predict_batch(c: Classifier, images_BCHW: Tensor, flips: bool) -> Tensor:
    """probs_BK on the CPU; with `flips` the mean of those of the images and of their mirror images."""
    turns = ("none", "hflip") if flips else ("none",)
    with c.strategy.autocast():
        outputs = [c.model(TEST_TRANSFORMS[turn](images_BCHW)) for turn in turns]
    return torch.stack([class_scores(each_BO).float().softmax(1) for each_BO in outputs]).mean(0).cpu()


def _name_best(
    probs_BK: Tensor, examples: Examples, classes: Sequence[str], reader: SampleReader, num_best: int
) -> list[Prediction]:
    probs_BT, top_BT = probs_BK.topk(num_best, dim=1)
    rows = torch.nonzero(examples.weights_B)[:, 0].tolist()
    labels = examples.labels_B.tolist()
    return [
        Prediction(
            reader.name_of(int(examples.ids_B[row])),
            tuple((classes[k], prob) for k, prob in zip(top_BT[row].tolist(), probs_BT[row].tolist(), strict=True)),
            None if labels[row] == UNKNOWN else classes[labels[row]],
        )
        for row in rows
    ]


def _draw_cells(predictions: Sequence[Prediction], examples: Examples, c: Classifier) -> Iterator[Captioned]:
    assert examples.images_BCHW is not None
    seen_BCHW = examples.images_BCHW[examples.weights_B > 0]
    for prediction, pixels in zip(predictions, to_pixels(seen_BCHW, c.augment.mean, c.augment.std), strict=True):
        name, probability = prediction.best[0]
        truth = "" if prediction.truth is None else f" ({prediction.truth})"
        yield f"{name}: {probability:.0%}{truth}", pixels


def _write_grid(cells: Sequence[Captioned], path: Path) -> None:
    shown = cells[:GRID_IMAGES]
    rows = [shown[start : start + GRID_COLUMNS] for start in range(0, len(shown), GRID_COLUMNS)]
    height, width, _ = shown[0][1].shape
    try:
        write_sheet(rows, find_cell((height, width)), path)
    except OSError as error:
        raise UserError(f"--grid {path}: cannot be written ({error.strerror}); name another file") from None
