"""Curves as a PNG; the only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.errors import UserError

Curve = tuple[str, int, Sequence[tuple[float, float]]]
"""Label, number of its colour, points."""

PANEL_INCHES = (9.0, 3.2)


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
            name = label.replace("$", r"\$")
            axes.plot(*zip(*points, strict=True), color=f"C{colour % 10}", linewidth=1.2, marker=".", label=name)
        axes.set(title=title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    try:
        figure.savefig(file, format="png", dpi=120)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name another file") from None
