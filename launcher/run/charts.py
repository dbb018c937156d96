"""Charts: curves, bars, matrices and contours of numbers, drawn into PNG files. The only importer of matplotlib.

matplotlib is an extra of this package: each `write_...` raises UserError without it. Each raises OSError when its file
cannot be written; only `write_curves` raises UserError then, too. Grids of images are in `image_grid`.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from launcher.errors import UserError
from launcher.metrics.names import show_metric
from shards.files import write_atomically
from shards.printable import printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL_INCHES = (10.0, 3.2)
"""Width and height of a panel."""
MAX_MARKED = 60
"""Points of a curve that can still be told apart; longer curves have no markers."""
NAMED_CLASSES = 60
"""Classes that the axes of a matrix have room to name."""
NUMBERED_CLASSES = 25
"""Classes with which the cells of a matrix have room for numbers."""
MAX_BARS, WORST_BARS = 100, 50
"""With more classes than the first, only so many of the worst have a bar."""
MAX_NAME = 32
"""Letters of a class name: longer ones would leave no room for the chart."""
DPI = 110

Matrix = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Curve:
    """`color`: a number; curves with the same have the same color. `points`: (step, value), in the order of steps."""

    label: str
    color: int
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Panel:
    """Curves that share their axes."""

    title: str
    curves: Sequence[Curve]


def write_curves(file: Path, panels: Sequence[Panel]) -> None:
    """The panels, one below the other, over the optimizer steps."""
    width, height = PANEL_INCHES
    figure = _new_figure(file, width, height * max(len(panels), 1))
    first = None
    for i, panel in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, i + 1, sharex=first)
        first = first or axes
        for curve in panel.curves:
            marker = "." if len(curve.points) <= MAX_MARKED else ""
            steps, values = zip(*curve.points, strict=True)
            label, color = _plain(curve.label), f"C{curve.color % 10}"
            axes.plot(steps, values, color=color, linewidth=1.2, marker=marker, label=label)
        axes.set(title=panel.title, xlabel="step")
        axes.grid(alpha=0.3)
        axes.locator_params(axis="x", integer=True)
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    try:
        _write(figure, file)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror}); name another file") from None


def write_confusion(confusion_KK: Matrix, classes: Sequence[str], title: str, path: Path) -> None:
    """The matrix [true class, predicted class]: colors are fractions of the true class, numbers are images."""
    num_classes = len(classes)
    side = min(4 + 0.35 * num_classes, 18)
    figure = _new_figure(path, side + 1, side)
    axes = figure.add_subplot()
    fracs_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(fracs_KK, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.7, label="fraction of the true class")
    axes.set(title=_plain(title), xlabel="predicted", ylabel="true")
    if num_classes <= NAMED_CLASSES:
        names = [*map(_short, classes)]
        axes.set_xticks(range(num_classes), names, rotation=90)
        axes.set_yticks(range(num_classes), names)
    if num_classes <= NUMBERED_CLASSES:
        for i, j in np.argwhere(confusion_KK):
            color = "white" if fracs_KK[i, j] > 0.5 else "black"
            axes.text(j, i, f"{confusion_KK[i, j]:,}", ha="center", va="center", color=color, fontsize=8)
    _write(figure, path)


def write_per_class(per_class: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> None:
    """The recall of each class as a bar, the worst at the top; a class without images has none.

    `per_class`: name -> `recall`, `support`.
    """
    known = [(name, each["recall"], each["support"]) for name, each in per_class.items() if each["recall"] is not None]
    bars = sorted(known, key=lambda bar: bar[1])
    if len(bars) > MAX_BARS:
        title = f"{title}\nthe {WORST_BARS} worst of {len(bars):,} classes"
        bars = bars[:WORST_BARS]
    figure = _new_figure(path, 8, 1.2 + 0.22 * len(bars))
    axes = figure.add_subplot()
    axes.barh(range(len(bars)), [recall for _, recall, _ in bars], color="C0")
    axes.set(title=_plain(title), xlabel="recall", xlim=(0, 1), ylim=(len(bars) - 0.4, -0.6))
    axes.set_yticks(range(len(bars)), [_short(name) for name, _, _ in bars], fontsize=8)
    for i, (_, recall, support) in enumerate(bars):
        axes.text(1.01, i, f"{recall:.1%} of {support:,}", va="center", fontsize=8)
    axes.grid(axis="x", alpha=0.3)
    _write(figure, path)


def write_trace(file: Path, points: Sequence[tuple[int, float]], metric: str, higher_is_better: bool) -> None:
    """The score of each trial, (number, score), and the best so far. `metric`: label of the scores."""
    figure = _new_figure(file, 7.0, 4.0)
    axes = figure.add_subplot()
    numbers, values = (np.array(column) for column in zip(*points, strict=True))
    best = (np.maximum if higher_is_better else np.minimum).accumulate(values)
    axes.plot(numbers, values, "o", color="C7", label="trial")
    axes.step(numbers, best, where="post", color="C0", label="best so far")
    axes.set(xlabel="trial", ylabel=_plain(metric))
    axes.locator_params(axis="x", integer=True)
    axes.grid(alpha=0.3)
    axes.legend()
    _write(figure, file)


def write_contour(
    file: Path,
    names: tuple[str, str],
    axes_xy: Sequence[Sequence[float]],
    heights_YX: npt.NDArray[np.float64],
    points: Sequence[tuple[float, float]],
    is_log: Sequence[bool],
    title: str,
) -> None:
    """A score over two recipe keys, `names`. `points`: where it was measured. `is_log`: scale of each axis."""
    figure = _new_figure(file, 6.5, 5.0)
    axes = figure.add_subplot()
    filled = axes.contourf(*axes_xy, heights_YX, levels=14, cmap="viridis")
    figure.colorbar(filled, ax=axes)
    axes.plot(*zip(*points, strict=True), "o", color="white", markeredgecolor="black")
    axes.set(title=_plain(title), xlabel=_plain(names[0]), ylabel=_plain(names[1]))
    axes.set_xscale("log" if is_log[0] else "linear")
    axes.set_yscale("log" if is_log[1] else "linear")
    _write(figure, file)


def title_of(split: str, metrics: Mapping[str, Any]) -> str:
    """`test: accuracy 97.50% of 180 images`."""
    return f"{split}: {show_metric('accuracy', metrics['accuracy'])} of {metrics['num_images']:,} images"


def _new_figure(file: Path, width: float, height: float) -> Figure:
    """In inches."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f"{file.name} needs matplotlib: pip install 'launcher[charts]'") from None
    return Figure(figsize=(width, height), layout="constrained")


def _plain(text: str) -> str:
    """Escaped: a dollar would begin a formula."""
    return printable(text).replace("$", r"\$")


def _short(name: str) -> str:
    """A class name, cut off where it is too long for an axis."""
    return _plain(name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…")


def _write(figure: Figure, file: Path) -> None:
    stream = io.BytesIO()
    with warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(stream, format="png", dpi=DPI, metadata={"Software": None})
    write_atomically(file, stream.getvalue())
