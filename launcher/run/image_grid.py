"""Grids of images as PNG files: a training batch, or images with captions. Charts of numbers are in `charts`."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from torchvision.utils import save_image

from launcher.text import one_line
from shards.files import write_atomically

GRID_IMAGES = 32
GRID_COLUMNS = 8
"""Size of the grid of a batch."""

GAP = 6
"""Pixels between the images of a sheet."""
CAPTION_HEIGHT = 14
"""Pixels above each image of a sheet."""

READABLE_PIXELS = 96
"""Longer side in pixels that smaller images are enlarged to, so that their captions have room."""

Pixels = npt.NDArray[np.uint8]
Captioned = tuple[str, Pixels]
"""A caption and an image, [height, width, 3]."""


def write_grid(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor, path: Path) -> None:
    """Write the first GRID_IMAGES normalized images in their true colors."""
    save_image(_undo_normalization(images_BCHW[:GRID_IMAGES], mean_C, std_C), path, nrow=GRID_COLUMNS)


def to_pixels(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Pixels:
    """Normalized images in their true colors, [images, height, width, 3]."""
    bytes_BCHW = (_undo_normalization(images_BCHW, mean_C, std_C) * 255).round().byte()
    return np.asarray(bytes_BCHW.permute(0, 2, 3, 1).numpy())


def find_cell(size: Sequence[int], readable: int = READABLE_PIXELS) -> tuple[int, int]:
    """Height and width of a cell for images of `size`, height and width: enlarged by the smallest whole number with
    which the longer side has `readable` pixels."""
    factor = -(-readable // max(size))
    return size[0] * factor, size[1] * factor


def write_sheet(rows: Sequence[Sequence[Captioned]], cell: tuple[int, int], path: Path) -> None:
    """Write rows of images, each below its caption, in cells of `cell`: height, width. The first row is the longest.

    An image is enlarged by a whole number, or shrunk, to fit its cell. Raise OSError when the file cannot be written.
    """
    pitch_y, pitch_x = cell[0] + CAPTION_HEIGHT + GAP, cell[1] + GAP
    sheet = Image.new("RGB", (len(rows[0]) * pitch_x + GAP, len(rows) * pitch_y + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, row in enumerate(rows):
        for j, (caption, pixels) in enumerate(row):
            x, y = GAP + j * pitch_x, GAP + i * pitch_y
            draw.text((x, y), _cut_short(caption, font, cell[1]), "black", font)
            sheet.paste(_fit(Image.fromarray(pixels), cell), (x, y + CAPTION_HEIGHT))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def _undo_normalization(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """The images on the CPU, on the scale [0, 1]."""
    images = images_BCHW.detach().float().cpu()
    return torch.clamp(images * std_C.cpu()[:, None, None] + mean_C.cpu()[:, None, None], 0, 1)


def _fit(image: Image.Image, cell: tuple[int, int]) -> Image.Image:
    factor = min(cell[1] / image.width, cell[0] / image.height)
    if factor >= 1:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
    return image.resize(size, Image.Resampling.BICUBIC)


def _cut_short(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """The text on one line, without what does not fit into `width` pixels."""
    text = one_line(text)
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
