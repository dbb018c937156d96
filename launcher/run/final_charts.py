"""The pictures of a run that has ended, drawn from its journal: its curves, and what the final evaluation found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from launcher.errors import UserError
from launcher.run.charts import Curve, title_of, write_confusion, write_curves, write_per_class
from launcher.run.history import drop_superseded, read_curve
from launcher.run.journal import Record, read_journal

CURVES = (
    ("loss", (("train", 0, "train", "loss", None), ("valid", 1, "eval", "loss", "valid"))),
    ("accuracy", (("valid", 1, "eval", "accuracy", "valid"),)),
    ("learning rate", (("head", 0, "train", "lr", None),)),
)
"""Title of each panel, and of its curves: label, number of the colour, kind of record, figure, split."""


def draw_charts(journal: Path, folder: Path) -> tuple[list[str], list[str]]:
    """Draw what the journal in folder `journal` tells into `folder`: `curves.png`, `per_class.png`, `confusion.png`.

    Return the names of the pictures, without `.png`, and why others are not there: a chart that fails never is the
    failure of a training. The last two are of the final evaluation; of very many classes there is no confusion matrix.
    """
    names: list[str] = []
    notes: list[str] = []
    for name, draw in _find_pictures(drop_superseded(read_journal(journal))):
        try:
            draw(folder / f"{name}.png")
        except UserError as error:  # what one of them needs, all of them need
            notes.append(str(error))
            break
        except Exception as error:
            notes.append(f"{name}.png could not be drawn: {type(error).__name__}: {error}")
        else:
            names.append(name)
    return names, notes


def _find_pictures(records: Sequence[Record]) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Name of each picture there is something for, and what draws it into a file."""
    if panels := build_panels(records):
        yield "curves", partial(write_curves, panels=panels)
    final = next((record for record in reversed(records) if record.get("name") == "confusion"), None)
    if final is None:
        return
    evaluation = next(r for r in reversed(records) if r["kind"] == "eval" and r["split"] == final["split"])
    title = title_of(final["split"], evaluation)
    yield "per_class", partial(write_per_class, evaluation["per_class"], title)
    if final["rows"]:
        yield "confusion", partial(write_confusion, np.array(final["rows"]), [*evaluation["per_class"]], title)


def build_panels(records: Sequence[Record]) -> list[tuple[str, list[Curve]]]:
    """Title and curves of each panel that has any; values that are no finite number are left out."""
    panels = []
    for title, wanted in CURVES:
        curves: list[Curve] = []
        for label, colour, kind, name, split in wanted:
            curve = read_curve(records, kind, name, split)
            points = [(float(step), value) for step, value in curve.items() if math.isfinite(value)]
            if points:
                curves.append((label, colour, points))
        if curves:
            panels.append((title, curves))
    return panels
