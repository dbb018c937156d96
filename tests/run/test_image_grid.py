"""Grids show the images that the network gets, in their true colors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from launcher.run.image_grid import (
    CAPTION_HEIGHT,
    GRID_COLUMNS,
    GRID_IMAGES,
    Captioned,
    to_pixels,
    write_grid,
    write_sheet,
)

MEAN_C, STD_C = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
GAP = 2  # pixels between the images of torchvision's grid
SHEET_GAP = 6


def _read(path: Path) -> NDArray[np.uint8]:
    """[height, width, channel]"""
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_grid_has_the_pixels_in_their_places(tmp_path: Path, dtype: torch.dtype) -> None:
    pixels_BCHW = torch.randint(0, 256, (11, 3, 9, 5), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    images_BCHW = ((pixels_BCHW / 255 - MEAN_C[:, None, None]) / STD_C[:, None, None]).to(dtype)
    before_BCHW = images_BCHW.clone()
    write_grid(images_BCHW.to(memory_format=torch.channels_last), MEAN_C, STD_C, tmp_path / "grid.png")
    assert torch.equal(images_BCHW, before_BCHW)
    grid_HWC = _read(tmp_path / "grid.png")
    assert grid_HWC.shape == (2 * (9 + GAP) + GAP, GRID_COLUMNS * (5 + GAP) + GAP, 3)
    for i, image_CHW in enumerate(pixels_BCHW):
        y, x = GAP + i // GRID_COLUMNS * (9 + GAP), GAP + i % GRID_COLUMNS * (5 + GAP)
        np.testing.assert_array_equal(grid_HWC[y : y + 9, x : x + 5], image_CHW.permute(1, 2, 0).numpy())


def test_one_channel_is_gray_and_values_out_of_range_are_clipped(tmp_path: Path) -> None:
    images_BCHW = torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    write_grid(images_BCHW, torch.tensor([0.5]), torch.tensor([0.1]), tmp_path / "grid.png")
    grid_HWC = _read(tmp_path / "grid.png")
    shown = [grid_HWC[GAP, GAP + i * (4 + GAP)].tolist() for i in range(3)]
    assert shown == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]


def test_a_grid_has_only_the_first_images(tmp_path: Path) -> None:
    write_grid(torch.zeros(100, 3, 8, 8), MEAN_C, STD_C, tmp_path / "grid.png")
    rows = GRID_IMAGES // GRID_COLUMNS
    assert _read(tmp_path / "grid.png").shape == (rows * (8 + GAP) + GAP, GRID_COLUMNS * (8 + GAP) + GAP, 3)


def test_normalized_pixels_come_back_exactly() -> None:
    pixels_BCHW = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, 16, 16)
    images_BCHW = (pixels_BCHW / 255 - MEAN_C[:, None, None]) / STD_C[:, None, None]
    np.testing.assert_array_equal(to_pixels(images_BCHW, MEAN_C, STD_C), pixels_BCHW.permute(0, 2, 3, 1).numpy())


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 200, (height, width, 3), dtype=np.uint8)


def test_a_sheet_has_its_images_in_cells_below_their_captions(tmp_path: Path) -> None:
    exact, small, large = _noise(20, 30), _noise(6, 8), _noise(40, 90)
    rows: list[list[Captioned]] = [
        [("a", exact), ("", small)],
        [("two\nlines, as 日本 and no end of it", large), ("b", exact)],
    ]
    write_sheet(rows, (20, 30), tmp_path / "sheet.png")
    sheet_HWC = _read(tmp_path / "sheet.png")
    pitch_y, pitch_x = 20 + CAPTION_HEIGHT + SHEET_GAP, 30 + SHEET_GAP
    assert sheet_HWC.shape == (2 * pitch_y + SHEET_GAP, 2 * pitch_x + SHEET_GAP, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["sheet.png"]

    def cell(i: int, j: int) -> NDArray[np.uint8]:
        y, x = i * pitch_y + SHEET_GAP + CAPTION_HEIGHT, j * pitch_x + SHEET_GAP
        return sheet_HWC[y : y + 20, x : x + 30]

    def caption(i: int, j: int) -> NDArray[np.uint8]:
        y, x = i * pitch_y + SHEET_GAP, j * pitch_x + SHEET_GAP
        return sheet_HWC[y : y + CAPTION_HEIGHT, x : x + 30 + SHEET_GAP]

    np.testing.assert_array_equal(cell(0, 0), exact)
    np.testing.assert_array_equal(cell(1, 1), exact)
    np.testing.assert_array_equal(cell(0, 1)[:18, :24], small.repeat(3, axis=0).repeat(3, axis=1))
    assert (cell(0, 1)[18:] == 255).all()
    assert (cell(0, 1)[:, 24:] == 255).all()
    assert (cell(1, 0)[13:] == 255).all()
    assert (cell(1, 0)[:13] < 255).any(axis=(1, 2)).all()
    assert caption(0, 0).min() < 100
    assert caption(1, 0).min() < 100
    assert (caption(1, 0)[:, 30:] == 255).all()
    assert (caption(0, 1) == 255).all()
