"""The charts of a run that has ended, drawn from its journal: its curves, and recall and confusion at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from launcher.errors import UserError
from launcher.run.charts import Curve, Panel, title_of, write_confusion, write_curves, write_per_class
from launcher.run.history import drop_superseded, read_points
from launcher.run.journal import Record, read_journal

CURVES = (
    ("loss", (("train", 0, "train", "loss", None), ("valid", 1, "eval", "loss", "valid"))),
    ("accuracy", (("valid", 1, "eval", "accuracy", "valid"),)),
    ("learning rate", (("head", 0, "train", "lr", None),)),
)
"""Title of each panel, and of each of its curves: label, color, kind of record, metric, split."""


def draw_charts(run_folder: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Draw `curves.png`, `per_class.png` and `confusion.png` of a run into `folder`.

    Return the names of the charts, without `.png`, and the reasons why others could not be drawn: a chart never fails a
    training. The last two are of the final evaluation; with very many classes there is no confusion matrix.
    """
    names: list[str] = []
    notes: list[str] = []
    for name, draw in _find_charts(drop_superseded(read_journal(run_folder))):
        try:
            draw(folder / f"{name}.png")
        except UserError as error:  # without matplotlib, none can be drawn
            notes.append(str(error))
            break
        except Exception as error:
            notes.append(f"{name}.png could not be drawn: {type(error).__name__}: {error}")
        else:
            names.append(name)
    return names, notes


def build_panels(records: Sequence[Record]) -> list[Panel]:
    """The panels of CURVES that have any points."""
    panels = []
    for title, wanted in CURVES:
        curves = [
            Curve(label, color, points)
            for label, color, kind, name, split in wanted
            if (points := read_points(records, kind, name, split))
        ]
        if curves:
            panels.append(Panel(title, curves))
    return panels


def _find_charts(records: Sequence[Record]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """The name of each chart that the records are enough for, and the function that draws it into a file."""
    if panels := build_panels(records):
        yield "curves", partial(write_curves, panels=panels)
    final = next((record for record in reversed(records) if record.get("name") == "confusion"), None)
    if final is None:
        return
    evaluation = next(each for each in reversed(records) if each["kind"] == "eval" and each["split"] == final["split"])
    title = title_of(final["split"], evaluation)
    yield "per_class", partial(write_per_class, evaluation["per_class"], title)
    if final["rows"]:
        yield "confusion", partial(write_confusion, np.array(final["rows"]), [*evaluation["per_class"]], title)
