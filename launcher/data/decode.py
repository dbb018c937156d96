"""Encoded bytes -> uint8 pixels: JPEG by libjpeg-turbo straight to where they are wanted, other formats by Pillow.

Nothing else on the training path reads images. On one core, photographs of 375x500: Pillow 1,057 images/s,
torchvision 1,407, simplejpeg 1,569; the pixels are the same.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import simplejpeg
from PIL import Image, ImageOps

from launcher.errors import DataError

Pixels = npt.NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""What a file may really be, whatever its name says. Pillow would hand others to outside programs (EPS)."""

_MODES = {3: "RGB", 4: "RGBX"}
_EXIF_ORIENTATION = 0x0112


class Encoded(Protocol):
    """An image file whose size is known and whose pixels are not decoded yet."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""

    def decode(self, out_HWC: Pixels) -> None:
        """Write the pixels: 3 channels, or 4 of which the last means nothing. Raise DataError when it is damaged."""


def open_image(content: bytes, place: str) -> Encoded:
    """Read an image file's head. Raise DataError with `place` when it is none.

    What decodes is RGB, turned as the EXIF orientation says: grayscale repeated, alpha dropped, 16 bits scaled to 8,
    the first frame of an animation.
    """
    try:
        return _open_jpeg(content, place) or _Other(Image.open(io.BytesIO(content), formats=FORMATS), place)
    except Exception as error:  # Pillow raises a dozen kinds on damaged bytes
        raise _damaged(place, error) from None


def decode_image(content: bytes, place: str, channels: int = 3) -> Pixels:
    """Image file -> pixels_HWC. Raise DataError with `place` when the bytes are not a whole image."""
    encoded = open_image(content, place)
    pixels_HWC: Pixels = np.empty((*encoded.size, channels), dtype=np.uint8)
    encoded.decode(pixels_HWC)
    return pixels_HWC


@dataclass(frozen=True, slots=True)
class _Jpeg:
    """The plain case: YCbCr or gray, the right way up."""

    content: bytes
    place: str
    size: tuple[int, int]

    def decode(self, out_HWC: Pixels) -> None:
        try:
            simplejpeg.decode_jpeg(self.content, _MODES[out_HWC.shape[2]], buffer=out_HWC)
        except ValueError:  # of odd bytes that do no harm, too: Pillow judges
            try:
                _Other(Image.open(io.BytesIO(self.content), formats=FORMATS), self.place).decode(out_HWC)
            except DataError:
                raise
            except Exception as error:  # as below
                raise _damaged(self.place, error) from None


class _Other:
    def __init__(self, image: Image.Image, place: str) -> None:
        self._image, self._place = image, place
        width, height = image.size
        is_turned = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        self.size = (width, height) if is_turned else (height, width)

    def decode(self, out_HWC: Pixels) -> None:
        try:
            self._image.load()
            ImageOps.exif_transpose(self._image, in_place=True)
            out_HWC[:] = np.asarray(_to_rgb(self._image).convert(_MODES[out_HWC.shape[2]]))
        except Exception as error:  # as above
            raise _damaged(self._place, error) from None


def _open_jpeg(content: bytes, place: str) -> _Jpeg | None:
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
    except ValueError:
        return None
    is_suspect = height * width > (Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns of it, or refuses it
    if is_suspect or colors not in ("YCbCr", "Gray") or _is_turned(content):
        return None
    return _Jpeg(content, place, (height, width))


def _is_turned(content: bytes) -> bool:
    # It stands in one of the first segments, none of which is longer than 64 KiB.
    head = content[: 2**17]
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return False
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return bool(image.getexif().get(_EXIF_ORIENTATION, 1) != 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # convert() would clip 16-bit grey to 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return image.convert("RGB")


def _damaged(place: str, error: Exception) -> DataError:
    return DataError(f"{place}: cannot be decoded ({error}); run 'python -m shards check' on its folder")
