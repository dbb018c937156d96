"""Encoded bytes -> uint8 pixels: JPEG by libjpeg-turbo straight to where they are wanted, other formats by Pillow.

Nothing else on the training path reads images. On one core, photographs of 375x500: Pillow 1,057 images/s,
torchvision 1,407, simplejpeg 1,569; the pixels are the same. What is cut off a picture later is decoded with it: of
these the part after entropy decoding, all that could be left out beside a crop, is a fifth.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from launcher.errors import DataError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What a file may really be, whatever its name says. Pillow would hand others to outside programs (EPS)."""

REDUCTIONS = (8, 4, 2)
"""Parts of its length and width that libjpeg-turbo can decode a JPEG to, in 0.4 to 0.9 of the time."""

ADVICE = "; run 'python -m shards check' on its folder"
"""Ends the message about an image that cannot be decoded."""
FILE_ADVICE = "; mend it, or leave it out"
"""Ends it where the image is a file of its own."""

_LEAST_SIDE = 8
"""Pixels. Of smaller images two parts may round to the same size."""
_EXIF_ORIENTATION = 0x0112


class Encoded(Protocol):
    """An image file whose size is known and whose pixels are not decoded yet."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""

    def decode(self, out_HWC: Pixels) -> None:
        """Write the pixels. Raise DataError when it is damaged."""


def open_image(content: bytes, place: str, min_side: int | None = None) -> Encoded:
    """Read an image file's head. Raise DataError with `place` when it is none.

    What decodes is RGB, turned as the EXIF orientation says: grayscale repeated, alpha dropped, 16 bits scaled to 8,
    the first frame of an animation. A JPEG whose shorter side still has `min_side` pixels at an eighth, a quarter
    or half of its length and width is decoded to that, where that is a whole number of pixels; None: to its full size.
    Scaled to half of that or less, it is on average within 0.7 levels of 255 of the same from its full size, at most 9.
    """
    try:
        return _open_jpeg(content, place, min_side) or _Other(_open_other(content), place, min_side)
    except Exception as error:  # Pillow raises a dozen kinds on damaged bytes
        raise _damaged(place, error) from None


def decode_image(content: bytes, place: str, min_side: int | None = None) -> Pixels:
    """Image file -> pixels_HWC. Raise DataError with `place` when the bytes are not a whole image."""
    encoded = open_image(content, place, min_side)
    pixels_HWC: Pixels = np.empty((*encoded.size, 3), dtype=np.uint8)
    encoded.decode(pixels_HWC)
    return pixels_HWC


@dataclass(frozen=True, slots=True)
class Jpeg:
    """The plain case: YCbCr or gray, the right way up."""

    content: bytes
    place: str
    size: tuple[int, int]
    min_side: int | None
    is_reduced: bool

    def decode(self, out_HWC: Pixels) -> None:
        # The least sizes choose the part it is decoded to; of tiny images the whole and 7/8 may be of the same size.
        height, width = self.size if self.is_reduced else (0, 0)
        try:
            simplejpeg.decode_jpeg(self.content, "RGB", min_height=height, min_width=width, buffer=out_HWC)
        except ValueError:  # of odd bytes that do no harm, too: Pillow judges
            try:
                _Other(_open_other(self.content), self.place, self.min_side).decode(out_HWC)
            except DataError:
                raise
            except Exception as error:  # as below
                raise _damaged(self.place, error) from None


class _Other:
    def __init__(self, image: Image.Image, place: str, min_side: int | None) -> None:
        self._image, self._place = image, place
        reduction = _choose_reduction(image.size, min_side)
        if image.format == "JPEG" and reduction > 1:
            image.draft(None, (image.width // reduction, image.height // reduction))
        width, height = image.size
        is_turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        self.size = (width, height) if is_turned else (height, width)

    def decode(self, out_HWC: Pixels) -> None:
        try:
            self._image.load()
            ImageOps.exif_transpose(self._image, in_place=True)
            out_HWC[:] = np.asarray(_to_rgb(self._image))
        except Exception as error:  # as above
            raise _damaged(self._place, error) from None


def _open_other(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=FORMATS)


def _choose_reduction(size: tuple[int, int], min_side: int | None) -> int:
    if min_side is None:
        return 1
    least_side = max(min_side, _LEAST_SIDE)
    parts = (part for part in REDUCTIONS if not any(side % part for side in size))
    return next((part for part in parts if min(size) >= part * least_side), 1)


def _open_jpeg(content: bytes, place: str, min_side: int | None) -> Jpeg | None:
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    is_suspect = height * width > (Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns of it, or refuses it
    if is_suspect or colors not in ("YCbCr", "Gray") or _is_turned(content):
        return None
    reduction = _choose_reduction((height, width), min_side)
    return Jpeg(content, place, (height // reduction, width // reduction), min_side, is_reduced=reduction > 1)


def _is_turned(content: bytes) -> bool:
    head = content[: _end_of_head(content)]
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return False
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return bool(image.getexif().get(_EXIF_ORIENTATION, 1) != 1)


def _end_of_head(content: bytes) -> int:
    """Where a JPEG's pixels begin: to search them too would take a fifteenth of the time that decoding takes."""
    place = 2
    while content[place : place + 1] == b"\xff":
        if content[place + 1 : place + 2] == b"\xda":
            return place
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return len(content)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # convert() would clip 16-bit grey to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def _damaged(place: str, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):  # whose own words show a Python object
        error = ValueError(f"cannot identify it as {', '.join(FORMATS)}")
    advice = FILE_ADVICE if Path(place).is_file() else ADVICE
    return DataError(f"{place}: cannot be decoded ({error}){advice}")
