"""Curves as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launcher.errors import UserError
from launcher.log.charts import write_curves

POINTS = [(1.0, 2.0), (50.0, 0.5)]


def pixels(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_every_panel_and_colour_is_drawn(tmp_path: Path) -> None:
    one = [("$x^2$ <a> 猫", 0, POINTS)]
    write_curves(tmp_path / "one.png", [("loss", one)])
    write_curves(tmp_path / "two.png", [("loss", one), ("top-1", [*one, ("b", 1, [(50.0, 0.5)])])])
    small, large = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert large.shape[0] == pytest.approx(2 * small.shape[0], abs=1)
    blue, orange = (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)
    assert (small == blue).all(axis=-1).any()
    assert not (small == orange).all(axis=-1).any()
    assert (large == orange).all(axis=-1).any()


def test_the_line_is_where_the_points_are(tmp_path: Path) -> None:
    """Falling from the left to the right."""
    write_curves(tmp_path / "falling.png", [("loss", [("a", 0, POINTS)])])
    rows, columns = np.nonzero((pixels(tmp_path / "falling.png") == (0x1F, 0x77, 0xB4)).all(axis=-1))
    inside = columns < 900  # beside the legend
    assert np.corrcoef(rows[inside], columns[inside])[0, 1] > 0.9


def test_a_file_that_cannot_be_written_and_no_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nowhere/x.png: cannot be written \(No such file or directory\)"):
        write_curves(tmp_path / "nowhere/x.png", [("loss", [("a", 0, POINTS)])])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'launcher\[charts\]'"):
        write_curves(tmp_path / "x.png", [("loss", [("a", 0, POINTS)])])
