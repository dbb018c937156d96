"""Image files -> uint8 pixels: JPEG by libjpeg-turbo straight into the caller's memory, other formats by Pillow.

Nothing else on the training path decodes on a CPU. On one core, photographs of 375x500: Pillow 1,057 images/s,
torchvision 1,407, simplejpeg 1,569; the pixels are the same. Images are decoded whole, whatever is cropped later: only
the part after entropy decoding, a fifth of the time, could be saved outside of a crop.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import simplejpeg
from PIL import Image, ImageOps, UnidentifiedImageError

from launcher.augment.arrays import UINT8
from launcher.errors import DataError
from shards.images import READABLE, to_mode

REDUCTIONS = (8, 4, 2)
"""libjpeg-turbo can decode a JPEG at 1/8, 1/4 or 1/2 of its length and width, in 0.4 to 0.9 of the time."""

ADVICE = "; run 'python -m shards check' on its folder"
"""Ends the message about an image that cannot be decoded."""
FILE_ADVICE = "; repair or remove it"
"""Ends it where the image is a file of its own."""

_LEAST_SIDE = 8
"""Pixels. Smaller images may have the same size at two reductions."""
_EXIF_ORIENTATION = 0x0112


class EncodedImage(Protocol):
    """An image file whose size is known and whose pixels are not decoded yet."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""

    def decode(self, out_HWC: UINT8) -> None:
        """Write the pixels. Raise DataError when the file is damaged."""


def open_image(content: bytes, place: str, min_side: int | None = None) -> EncodedImage:
    """Read the header of an image file. Raise DataError naming `place` when it is not an image.

    It decodes to RGB, rotated by its EXIF orientation: grayscale repeated, alpha dropped, 16 bits scaled to 8,
    the first frame of an animation. A JPEG is decoded at 1/8, 1/4 or 1/2 of its length and width where its shorter side
    still has `min_side` pixels and both sides are whole pixels; `min_side` None: at its full size. Scaled to half of
    that or less, it differs from the same at full size by 0.7 levels of 255 on average, by 9 at most.
    """
    return _open_jpeg(content, place, min_side) or _open_with_pillow(content, place, min_side)


def decode_image(content: bytes, place: str, min_side: int | None = None) -> UINT8:
    """Image file -> pixels_HWC. Raise DataError naming `place` when the bytes are not a whole image."""
    encoded = open_image(content, place, min_side)
    pixels_HWC: UINT8 = np.empty((*encoded.size, 3), dtype=np.uint8)
    encoded.decode(pixels_HWC)
    return pixels_HWC


@dataclass(frozen=True, slots=True)
class Jpeg:
    """The usual case: YCbCr or gray, upright."""

    content: bytes
    place: str
    size: tuple[int, int]
    min_side: int | None
    is_reduced: bool

    def decode(self, out_HWC: UINT8) -> None:
        # The minimum size chooses the reduction; for tiny images, full size and 7/8 may round to the same size.
        height, width = self.size if self.is_reduced else (0, 0)
        try:
            simplejpeg.decode_jpeg(self.content, "RGB", min_height=height, min_width=width, buffer=out_HWC)
        except ValueError:  # raised for harmless odd bytes too: Pillow decides
            _open_with_pillow(self.content, self.place, self.min_side).decode(out_HWC)


@dataclass(frozen=True, slots=True)
class _PillowImage:
    image: Image.Image
    place: str
    size: tuple[int, int]

    def decode(self, out_HWC: UINT8) -> None:
        try:
            self.image.load()
            ImageOps.exif_transpose(self.image, in_place=True)
            out_HWC[:] = np.asarray(to_mode(self.image, "RGB"))
        except Exception as error:  # as below
            raise _damaged(self.place, error) from None


def _open_with_pillow(content: bytes, place: str, min_side: int | None) -> _PillowImage:
    try:
        image = Image.open(io.BytesIO(content), formats=READABLE)
        reduction = _choose_reduction(image.size, min_side)
        if image.format == "JPEG" and reduction > 1:
            image.draft(None, (image.width // reduction, image.height // reduction))
        width, height = image.size
        is_rotated = image.getexif().get(_EXIF_ORIENTATION, 1) >= 5
        return _PillowImage(image, place, (width, height) if is_rotated else (height, width))
    except Exception as error:  # Pillow raises a dozen kinds on damaged bytes
        raise _damaged(place, error) from None


def _choose_reduction(size: tuple[int, int], min_side: int | None) -> int:
    if min_side is None:
        return 1
    least_side = max(min_side, _LEAST_SIDE)
    whole = (reduction for reduction in REDUCTIONS if not any(side % reduction for side in size))
    return next((reduction for reduction in whole if min(size) >= reduction * least_side), 1)


def _open_jpeg(content: bytes, place: str, min_side: int | None) -> Jpeg | None:
    if not content.startswith(b"\xff\xd8"):
        return None
    try:
        height, width, colors, _ = simplejpeg.decode_jpeg_header(content)
        is_suspect = height * width > (Image.MAX_IMAGE_PIXELS or 0)  # Pillow warns or refuses
        if is_suspect or colors not in ("YCbCr", "Gray") or _has_exif_rotation(content):
            return None
    except Exception:  # damaged, perhaps: Pillow decides
        return None
    reduction = _choose_reduction((height, width), min_side)
    return Jpeg(content, place, (height // reduction, width // reduction), min_side, is_reduced=reduction > 1)


def _has_exif_rotation(content: bytes) -> bool:
    head = content[: _find_scan(content)]
    if b"Exif\0\0" not in head and b"tiff:Orientation" not in head:
        return False
    with Image.open(io.BytesIO(content), formats=("JPEG",)) as image:
        return bool(image.getexif().get(_EXIF_ORIENTATION, 1) != 1)


def _find_scan(content: bytes) -> int:
    """Offset of a JPEG's pixels: searching them too would take 1/15 of the time of decoding."""
    place = 2
    while content[place : place + 1] == b"\xff":
        if content[place + 1 : place + 2] == b"\xda":
            return place
        place += 2 + int.from_bytes(content[place + 2 : place + 4], "big")
    return len(content)


def _damaged(place: str, error: Exception) -> DataError:
    if isinstance(error, UnidentifiedImageError):  # whose own message shows a Python object
        error = ValueError(f"cannot identify it as {', '.join(READABLE)}")
    advice = FILE_ADVICE if Path(place).is_file() else ADVICE
    return DataError(f"{place}: cannot be decoded ({error}){advice}")
