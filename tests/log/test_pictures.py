"""The grid shows the images that the network gets, in the colours that the eye would see."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from launcher.log.pictures import GRID_COLUMNS, GRID_IMAGES, write_grid

MEAN_C, STD_C = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
GAP = 2  # pixels between the images of torchvision's grid


def _read(path: Path) -> NDArray[np.uint8]:
    """Height, width, colour."""
    with Image.open(path) as picture:
        return np.asarray(picture)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_come_back_in_their_places(tmp_path: Path, dtype: torch.dtype) -> None:
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


def test_one_channel_is_grey_and_what_is_out_of_range_is_clipped(tmp_path: Path) -> None:
    images_BCHW = torch.tensor([-9.0, 0.0, 9.0]).view(3, 1, 1, 1).expand(3, 1, 4, 4)
    write_grid(images_BCHW, torch.tensor([0.5]), torch.tensor([0.1]), tmp_path / "grid.png")
    grid_HWC = _read(tmp_path / "grid.png")
    shown = [grid_HWC[GAP, GAP + i * (4 + GAP)].tolist() for i in range(3)]
    assert shown == [[0, 0, 0], [128, 128, 128], [255, 255, 255]]


def test_no_more_than_the_first_images(tmp_path: Path) -> None:
    write_grid(torch.zeros(100, 3, 8, 8), MEAN_C, STD_C, tmp_path / "grid.png")
    rows = GRID_IMAGES // GRID_COLUMNS
    assert _read(tmp_path / "grid.png").shape == (rows * (8 + GAP) + GAP, GRID_COLUMNS * (8 + GAP) + GAP, 3)
