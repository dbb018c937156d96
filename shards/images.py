"""Images as bytes and arrays: decode, encode, shrink, and channel statistics.

Legend: H height, W width, C = 3 channels (red, green, blue).
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from shards.manifest import ShardsError

Uint8Array = npt.NDArray[np.uint8]
RGB = tuple[float, float, float]

FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}
"""File extension in lower case -> Pillow's name of the format. Other files are not packed."""

RESIZABLE_MODES = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("L", "LA", "RGB", "RGBA"), "WEBP": ("RGB", "RGBA")}

READABLE = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Formats that are decoded, by content and not by name. Pillow would run outside programs for some others (EPS)."""


def decode_rgb(content: bytes) -> Uint8Array:
    """Image file -> uint8 array HWC in RGB, EXIF orientation not applied. Raise ShardsError on damage."""
    try:
        with Image.open(io.BytesIO(content), formats=READABLE) as image:
            return np.asarray(to_mode(image, "RGB"))
    except Exception as error:  # Pillow raises a dozen kinds on damaged bytes
        what = "not a JPEG, PNG, WebP, GIF or BMP" if isinstance(error, UnidentifiedImageError) else error
        raise ShardsError(f"cannot be decoded ({what})") from None


def encode_png(image: Image.Image | Uint8Array) -> bytes:
    """The image as a PNG file, without loss. Arrays are uint8, HW or HWC."""
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        image = image.convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def shrink(content: bytes, extension: str, max_side: int) -> bytes:
    """Shrink the longer side to `max_side` pixels (Lanczos), and apply the EXIF orientation.

    A smaller image keeps its bytes. Raise ShardsError on damage.
    """
    file_format = FORMATS[extension]
    try:
        with Image.open(io.BytesIO(content), formats=READABLE) as image:
            if max(image.size) <= max_side:
                return content
            upright = ImageOps.exif_transpose(image)
        if upright.mode not in RESIZABLE_MODES[file_format]:
            is_transparent = upright.has_transparency_data and file_format != "JPEG"
            upright = to_mode(upright, "RGBA" if is_transparent else "RGB")
        scale = max_side / max(upright.size)
        width, height = (max(1, round(side * scale)) for side in upright.size)
        buffer = io.BytesIO()
        upright.resize((width, height), Image.Resampling.LANCZOS).save(
            buffer, format=file_format, quality=95, icc_profile=image.info.get("icc_profile")
        )
    except Exception as error:  # Pillow raises a dozen kinds on damaged bytes
        raise ShardsError(f"cannot be resized ({error})") from None
    return buffer.getvalue()


def to_mode(image: Image.Image, mode: Literal["RGB", "RGBA"]) -> Image.Image:
    """Gray is repeated, 16 bits are scaled to 8."""
    if image.mode.startswith("I"):  # convert() would clip 16-bit gray to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about a direct conversion
        image = image.convert("RGBA")
    return image.convert(mode)


@dataclass
class ChannelSums:
    """Exact integer sums over pixels: independent of the order of the images."""

    num_pixels: int = 0
    sums: tuple[int, ...] = (0, 0, 0)
    squares: tuple[int, ...] = (0, 0, 0)

    def add(self, image_HWC: Uint8Array) -> None:
        pixels = image_HWC.reshape(-1, 3)
        self.num_pixels += len(pixels)
        values = np.arange(256, dtype=np.int64)
        counts = [np.bincount(pixels[:, channel], minlength=256) for channel in range(3)]
        self.sums = tuple(old + int(count @ values) for old, count in zip(self.sums, counts, strict=True))
        self.squares = tuple(old + int(count @ values**2) for old, count in zip(self.squares, counts, strict=True))

    def mean_std(self) -> tuple[RGB, RGB]:
        """Mean and population standard deviation per channel, of values in [0, 1]."""
        n = self.num_pixels
        means = [total / n / 255 for total in self.sums]
        stds = [
            math.sqrt(n * square - total**2) / n / 255 for total, square in zip(self.sums, self.squares, strict=True)
        ]
        return (means[0], means[1], means[2]), (stds[0], stds[1], stds[2])
