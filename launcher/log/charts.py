"""Curves as a PNG; the only importer of matplotlib."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import UserError
from shards.printable import printable

Curve = tuple[str, int, Sequence[tuple[float, float]]]
"""Label, number of its colour, points."""

PANEL_INCHES = (10.0, 3.2)
MAX_MARKED = 60
"""Points of a curve that are still told from one another."""


def write_curves(file: Path, panels: Sequence[tuple[str, Sequence[Curve]]]) -> None:
    """A picture of one panel (title, curves) below the other, over the optimizer steps.

    Raise UserError without matplotlib, or when the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("curves need matplotlib: pip install 'launcher[charts]'") from None
    width, height = PANEL_INCHES
    figure = Figure(figsize=(width, height * max(len(panels), 1)), layout="constrained")
    FigureCanvasAgg(figure)
    for i, (title, curves) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, i + 1)
        for label, colour, points in curves:
            # A dollar would begin a formula.
            name, marker = printable(label).replace("$", r"\$"), "." if len(points) <= MAX_MARKED else ""
            axes.plot(*zip(*points, strict=True), color=f"C{colour % 10}", linewidth=1.2, marker=marker, label=name)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    try:
        with warnings.catch_warnings():
            # What the font lacks is drawn as a box.
            warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
            figure.savefig(file, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name another file") from None
