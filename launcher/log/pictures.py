"""Pictures of a run, as PNG files in its `pictures/`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import save_image

GRID_IMAGES = 32
GRID_COLUMNS = 8


def write_grid(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor, path: Path) -> None:
    """The first GRID_IMAGES normalised images, as the eye would see them."""
    images = images_BCHW[:GRID_IMAGES].detach().float().cpu()
    pixels = images * std_C.cpu()[:, None, None] + mean_C.cpu()[:, None, None]
    save_image(torch.clamp(pixels, 0, 1), path, nrow=GRID_COLUMNS)
