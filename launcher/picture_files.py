"""Pictures as files of their own: which are meant, and each as the network takes it. C channels, H x W pixels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from launcher.augment.pipeline import Augment, find_needed_side
from launcher.data.decode import decode_image
from launcher.errors import DataError, UserError
from launcher.images import images_of
from shards.images import FORMATS
from shards.sources.imagefolder import is_image


def find_files(paths: Sequence[Path]) -> list[Path]:
    """Files as they are named, and the pictures below folders in the order of their names.

    Raise UserError when one is not there, or a folder has none.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            below = sorted(each for each in path.rglob("*") if is_image(each) and each.is_file())
            if not below:
                raise UserError(f"{path}: no pictures there; wanted *.{{{','.join(FORMATS)}}}")
            found += below
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"{path}: no such file or folder; name pictures or folders of them")
    return found


def read_file(path: Path) -> bytes:
    """Raise DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); leave it out, or see who may read it") from None


def to_input(content: bytes, place: str, augment: Augment) -> Tensor:
    """An image file -> images_1CHW as a validation of `augment` makes it, on the CPU.

    Raise DataError with `place` when the bytes are not a whole image.
    """
    pixels_HWC = decode_image(content, place, find_needed_side(augment.entries))
    images = images_of(torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None])
    return augment(images, np.zeros(1, dtype=np.int64), 0, 0)
