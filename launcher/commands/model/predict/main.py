"""`launcher predict RUN PATH...`: classes and probabilities of any images, printed or written to a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path

from launcher.commands.model.infer import NameBadSamples, build_feed
from launcher.commands.model.options import PredictOptions
from launcher.commands.model.predict.classifier import Classifier, find_classifier
from launcher.commands.model.predict.output import FORMATS, Prediction, Write, choose_format, find_width, open_output
from launcher.commands.model.predict.predictor import Predictor
from launcher.data.image_files import find_images
from launcher.distributed.signals import follow_launcher
from launcher.errors import UserError, check_at_least_1
from launcher.run.image_grid import Captioned, find_cell, write_sheet
from launcher.run.journal import JOURNAL_NAME
from shards.console import ConsoleProgress
from shards.progress import SILENT, Progress

GRID_IMAGES = 64
GRID_COLUMNS = 8


def predict(run: str, paths: Sequence[str], options: PredictOptions) -> int:
    """Predict, write, and return the exit code: 1 when an image cannot be read. Every rank runs this.

    Raise UserError, RunError or ShardsError before anything is computed when an argument is wrong; raise UserError and
    write nothing when no image can be read.
    """
    follow_launcher()
    _check_options(options)
    classes, open_classifier = find_classifier(run, options.checkpoint, options.device)
    reader = find_images(paths, classes, options.split)
    for name, file in options.files():
        if reader.holds(file):
            raise UserError(f"--{name} {file}: is one of the images; choose another")
    classifier = open_classifier()
    is_first, unreadable = classifier.strategy.world.is_first, NameBadSamples()
    with ConsoleProgress() if is_first else nullcontext(SILENT) as progress:
        for note in classifier.notes:
            progress.note(note)
        with ExitStack() as stack:
            write = _open_on_rank0(options.output, classifier, stack)
            feed = build_feed(reader, classifier.augment, classifier.strategy, unreadable)
            stack.enter_context(closing(feed.loader))
            num_best = min(options.top, len(classes))
            num_cells = 0 if options.grid is None else GRID_IMAGES
            predictor = Predictor(classifier, feed, num_best, options.flips, num_cells)
            render = FORMATS[choose_format(options.format, options.output)]
            predictions = _follow(predictor, unreadable, progress)
            for text in render(predictions, num_best, find_width(options.output)):
                write(text)
            unreadable.check_any_readable(reader.num_images)
        if options.grid is not None and is_first and predictor.cells:
            _write_grid(predictor.cells, options.grid)
        progress.note(predictor.describe() + unreadable.describe())
    classifier.strategy.comm.close()
    return unreadable.exit_code


def _follow(predictor: Predictor, unreadable: NameBadSamples, progress: Progress) -> Iterator[Prediction]:
    """The predictions, with progress and unreadable images shown on the way."""
    for predictions in predictor.rounds():
        unreadable.report(predictor.feed.strategy.comm, progress.note)
        yield from predictions
        progress.update("predict", predictor.num_done, predictor.feed.loader.reader.num_images)


def _open_on_rank0(output: Path | None, classifier: Classifier, stack: ExitStack) -> Write:
    """The function that writes text: on the other ranks it does nothing. Raise UserError on all ranks when the output
    cannot be opened.
    """
    writes: list[Write] = [lambda _text: None]
    classifier.strategy.comm.run_on_rank0(lambda: writes.append(stack.enter_context(open_output(output))))
    return writes[-1]


def _check_options(options: PredictOptions) -> None:
    check_at_least_1(top=options.top)
    if options.grid is not None and options.grid.suffix.lower() != ".png":
        raise UserError(f"--grid {options.grid}: must end in .png")
    choose_format(options.format, options.output)
    for name, file in options.files():
        if file.exists() and not file.is_file():
            raise UserError(f"--{name} {file}: not a file; choose another")
        if not file.absolute().parent.is_dir():
            raise UserError(f"--{name} {file}: there is no folder {file.parent}; create it first")
        if file.name == JOURNAL_NAME and file.exists():
            raise UserError(f"--{name} {file}: is the journal of a run; choose another")


def _write_grid(cells: Sequence[Captioned], path: Path) -> None:
    shown = cells[:GRID_IMAGES]
    rows = [shown[start : start + GRID_COLUMNS] for start in range(0, len(shown), GRID_COLUMNS)]
    try:
        write_sheet(rows, find_cell(shown[0][1].shape[:2]), path)
    except OSError as error:
        raise UserError(f"--grid {path}: cannot be written ({error.strerror}); choose another file") from None
