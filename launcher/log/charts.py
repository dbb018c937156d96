"""Charts as PNG files. The only importer of matplotlib, which is an extra of this package."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from launcher.errors import UserError
from shards.manifest import write_atomically
from shards.printable import printable

NAMED_CLASSES = 60
"""Above this the axes have no room for names."""
NUMBERED_CLASSES = 25
"""Above this the fields have no room for numbers."""

Matrix = npt.NDArray[np.int64]


def write_confusion(confusion_KK: Matrix, classes: Sequence[str], title: str, path: Path) -> None:
    """[true class, predicted class] as a picture: colours are shares of the true class, numbers are images.

    Raise UserError where matplotlib is not installed, OSError when it cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError(f"{path.name} needs matplotlib: pip install 'launcher[charts]'") from None
    num_classes = len(classes)
    side = min(4 + 0.35 * num_classes, 18)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.add_subplot()
    shares_KK = confusion_KK / np.maximum(confusion_KK.sum(axis=1, keepdims=True), 1)
    image = axes.imshow(shares_KK, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.7, label="share of the true class")
    axes.set(title=printable(title), xlabel="predicted", ylabel="true")
    if num_classes <= NAMED_CLASSES:
        names = [printable(name).replace("$", r"\$") for name in classes]  # matplotlib would read formulas
        axes.set_xticks(range(num_classes), names, rotation=90)
        axes.set_yticks(range(num_classes), names)
    if num_classes <= NUMBERED_CLASSES:
        for i, j in np.argwhere(confusion_KK):
            color = "white" if shares_KK[i, j] > 0.5 else "black"
            axes.text(j, i, f"{confusion_KK[i, j]:,}", ha="center", va="center", color=color, fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110, metadata={"Software": None})
    write_atomically(path, stream.getvalue())
