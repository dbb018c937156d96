"""Charts, read back by their colors."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launcher.errors import UserError
from launcher.run.charts import Curve, Panel, write_confusion, write_curves, write_per_class

POINTS = [(1.0, 2.0), (50.0, 0.5)]
PANEL = Panel("loss", [Curve("a", 0, POINTS)])


def pixels(file: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    with Image.open(file) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_every_panel_and_color_is_drawn(tmp_path: Path) -> None:
    one = Curve("$x^2$ <a> 猫", 0, POINTS)
    write_curves(tmp_path / "one.png", [Panel("loss", [one])])
    write_curves(tmp_path / "two.png", [Panel("loss", [one]), Panel("accuracy", [one, Curve("b", 1, [(50.0, 0.5)])])])
    small, large = pixels(tmp_path / "one.png"), pixels(tmp_path / "two.png")
    assert large.shape[0] == pytest.approx(2 * small.shape[0], abs=1)
    blue, orange = (0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E)
    assert (small == blue).all(axis=-1).any()
    assert not (small == orange).all(axis=-1).any()
    assert (large == orange).all(axis=-1).any()


def test_the_line_is_where_the_points_are(tmp_path: Path) -> None:
    """Falling from the left to the right."""
    write_curves(tmp_path / "falling.png", [PANEL])
    rows, columns = np.nonzero((pixels(tmp_path / "falling.png") == (0x1F, 0x77, 0xB4)).all(axis=-1))
    inside = columns < 900  # beside the legend
    assert np.corrcoef(rows[inside], columns[inside])[0, 1] > 0.9


def test_unwritable_files_and_a_missing_matplotlib_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"nowhere/x.png: cannot be written \(No such file or directory\)"):
        write_curves(tmp_path / "nowhere/x.png", [PANEL])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UserError, match=r"pip install 'launcher\[charts\]'"):
        write_curves(tmp_path / "x.png", [PANEL])


def draw(path: Path, rows: list[list[int]]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    write_confusion(np.array(rows), [f"class {k}" for k in range(len(rows))], "title", path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_the_diagonal_is_dark(tmp_path: Path) -> None:
    right_HWC, wrong_HWC = draw(tmp_path / "a.png", [[9, 0], [0, 4]]), draw(tmp_path / "b.png", [[0, 9], [4, 0]])
    dark = np.array([8, 48, 107])  # the end of matplotlib's Blues
    is_right_HW, is_wrong_HW = ((np.abs(each - dark).max(axis=2) < 3) for each in (right_HWC, wrong_HWC))
    fields_HW = is_right_HW ^ is_wrong_HW  # not the color bar, which is in both
    rows, columns = np.nonzero(fields_HW)
    middle_y, middle_x = (rows.min() + rows.max()) // 2, (columns.min() + columns.max()) // 2
    top_HW = is_right_HW[rows.min() : middle_y]
    left, right = top_HW[:, columns.min() : middle_x], top_HW[:, middle_x : columns.max()]
    assert left.mean() > 0.9 > 0.1 > right.mean()


@pytest.mark.parametrize("num_classes", [2, 30, 80])
def test_the_same_numbers_give_the_same_bytes(tmp_path: Path, num_classes: int) -> None:
    rows = np.random.default_rng(0).integers(0, 9, (num_classes, num_classes)).tolist()
    draw(tmp_path / "a.png", rows)
    draw(tmp_path / "b.png", rows)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_class_names_are_text_and_no_formulas(tmp_path: Path) -> None:
    write_confusion(np.eye(2, dtype=np.int64), [r"$\nonsense{$", "\x1b[31mred"], r"$x", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def bar_lengths(path: Path) -> list[int]:
    """Pixels of each bar that is long enough to be seen, from the top."""
    is_bar_HW = (pixels(path) == (0x1F, 0x77, 0xB4)).all(axis=-1)
    lengths = is_bar_HW.sum(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], lengths > 0, [0]])))
    return [int(np.median(lengths[start:end])) for start, end in edges.reshape(-1, 2)]


def test_bars_are_as_long_as_the_recall(tmp_path: Path) -> None:
    """From a confusion matrix: the worst at the top, nothing for the class without images."""
    confusion_KK = np.array([[6, 2, 0, 0], [0, 9, 0, 0], [6, 0, 2, 0], [0, 0, 0, 0]])
    totals = confusion_KK.sum(axis=1).tolist()
    hits = np.diag(confusion_KK).tolist()
    per_class = {
        name: {"recall": hit / total if total else None, "support": total}
        for name, hit, total in zip(("a", "b", "c", "none"), hits, totals, strict=True)
    }
    write_per_class(per_class, "title", tmp_path / "bars.png")
    found = bar_lengths(tmp_path / "bars.png")
    assert [length / found[-1] for length in found] == pytest.approx([2 / 8, 6 / 8, 9 / 9], abs=0.01)


@pytest.mark.parametrize(("num_classes", "num_bars"), [(100, 100), (101, 50)])
def test_only_the_worst_of_many_classes_have_bars(tmp_path: Path, num_classes: int, num_bars: int) -> None:
    per_class = {
        f"class {k} with a name that is far too long $": {"recall": (num_classes - k) / num_classes, "support": 9}
        for k in range(num_classes)
    }
    write_per_class(per_class, "title", tmp_path / "bars.png")
    found = bar_lengths(tmp_path / "bars.png")
    assert len(found) == num_bars
    assert found == sorted(found)
    assert found[-1] / found[num_bars // 2 - 1] == pytest.approx(2, rel=0.05)
    height, width, _ = pixels(tmp_path / "bars.png").shape
    assert width < 1000
    assert height < 2700
