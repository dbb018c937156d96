"""The chart of a confusion matrix, read back by its colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launcher.log.charts import write_confusion


def draw(path: Path, rows: list[list[int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    write_confusion(np.array(rows), [f"class {k}" for k in range(len(rows))], "title", path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_diagonal_is_dark(tmp_path: Path) -> None:
    right_HWC, wrong_HWC = draw(tmp_path / "a.png", [[9, 0], [0, 4]]), draw(tmp_path / "b.png", [[0, 9], [4, 0]])
    dark = np.array([8, 48, 107])  # the end of matplotlib's Blues
    is_right_HW, is_wrong_HW = ((np.abs(each - dark).max(axis=2) < 3) for each in (right_HWC, wrong_HWC))
    fields_HW = is_right_HW ^ is_wrong_HW  # not the colour bar, which is in both
    rows, columns = np.nonzero(fields_HW)
    middle_y, middle_x = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    top_HW = is_right_HW[rows.min() : middle_y]
    left, right = top_HW[:, columns.min() : middle_x], top_HW[:, middle_x : columns.max()]
    assert left.mean() > 0.9 > 0.1 > right.mean()


@pytest.mark.parametrize("num_classes", [2, 30, 80])
def test_same_numbers_same_bytes(tmp_path: Path, num_classes: int) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (num_classes, num_classes)).tolist()
    draw(tmp_path / "a.png", rows)
    draw(tmp_path / "b.png", rows)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_names_are_text_and_no_formulas(tmp_path: Path) -> None:
    write_confusion(np.eye(2, dtype=np.int64), [r"$\nonsense{$", "\x1b[31mred"], r"$x", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
