"""Pictures for the eye, as PNG files: a batch of a run in its `pictures/`, and what `launcher show` shows."""

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

from shards.manifest import write_atomically

GRID_IMAGES = 32
GRID_COLUMNS = 8

GAP = 6
"""Pixels between the pictures of a sheet."""
CAPTION_HEIGHT = 14
"""Pixels above each picture of a sheet."""

READABLE_PIXELS = 96
"""Sides that smaller pictures are enlarged to, so that there is room for their captions."""

Pixels = npt.NDArray[np.uint8]
Captioned = tuple[str, Pixels]
"""A line of text and a picture, [height, width, 3]."""


def write_grid(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor, path: Path) -> None:
    """The first GRID_IMAGES normalised images, as the eye would see them."""
    save_image(_undo_normalisation(images_BCHW[:GRID_IMAGES], mean_C, std_C), path, nrow=GRID_COLUMNS)


def to_pixels(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Pixels:
    """Normalised images as the eye would see them, [images, height, width, 3]."""
    bytes_BCHW = (_undo_normalisation(images_BCHW, mean_C, std_C) * 255).round().byte()
    return np.asarray(bytes_BCHW.permute(0, 2, 3, 1).numpy())


def find_cell(size: Sequence[int], readable: int = READABLE_PIXELS) -> tuple[int, int]:
    """Height and width of a cell for pictures of this height and width: a whole number of times as large, so that the
    longer side has `readable` pixels."""
    factor = -(-readable // max(size))
    return size[0] * factor, size[1] * factor


def write_sheet(rows: Sequence[Sequence[Captioned]], cell: tuple[int, int], path: Path) -> None:
    """Rows of as many pictures each, with their captions, in cells of `cell`: height, width.

    A picture is enlarged by a whole number, or shrunk, to fit into its cell. Raise OSError when it cannot be written.
    """
    pitch_y, pitch_x = cell[0] + CAPTION_HEIGHT + GAP, cell[1] + GAP
    sheet = Image.new("RGB", (len(rows[0]) * pitch_x + GAP, len(rows) * pitch_y + GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for i, row in enumerate(rows):
        for j, (caption, pixels) in enumerate(row):
            x, y = GAP + j * pitch_x, GAP + i * pitch_y
            draw.text((x, y), _cut_off(caption, font, cell[1]), "black", font)
            sheet.paste(_fit(Image.fromarray(pixels), cell), (x, y + CAPTION_HEIGHT))
    stream = io.BytesIO()
    sheet.save(stream, "PNG")
    write_atomically(path, stream.getvalue())


def _undo_normalisation(images_BCHW: Tensor, mean_C: Tensor, std_C: Tensor) -> Tensor:
    """On the CPU, on the scale [0, 1]."""
    images = images_BCHW.detach().float().cpu()
    return torch.clamp(images * std_C.cpu()[:, None, None] + mean_C.cpu()[:, None, None], 0, 1)


def _fit(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    factor = min(cell[1] / picture.width, cell[0] / picture.height)
    if factor >= 1:
        return picture.resize((picture.width * int(factor), picture.height * int(factor)), Image.Resampling.NEAREST)
    size = max(1, int(picture.width * factor)), max(1, int(picture.height * factor))
    return picture.resize(size, Image.Resampling.BICUBIC)


def _cut_off(text: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    """As much of the text as fits, on one line."""
    text = " ".join(text.split())
    while text and font.getlength(text) > width:
        text = text[:-1]
    return text
