"""Encoded bytes -> uint8 pixels. Nothing else on the training path reads images."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from launcher.errors import DataError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What a file may really be, whatever its name says. Pillow would hand others to outside programs (EPS)."""


def decode_image(content: bytes, place: str) -> Pixels:
    """Image file -> RGB, shape [height, width, 3], turned as its EXIF orientation says.

    Grayscale is repeated, alpha dropped, 16 bits scaled to 8, the first frame of an animation taken.
    Raise DataError with `place` when the bytes are not a whole image.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return np.asarray(_to_rgb(image))
    except Exception as error:  # Pillow raises a dozen kinds on damaged bytes
        raise DataError(f"{place}: cannot be decoded ({error}); run 'python -m shards check' on its folder") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # convert() would clip 16-bit grey to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")
