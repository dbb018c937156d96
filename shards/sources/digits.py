"""`digits`: the 1,797 handwritten 8x8 digits of scikit-learn, as gray PNG files."""

from __future__ import annotations

from functools import partial

import numpy as np

from shards.images import encode_png
from shards.manifest import ShardsError
from shards.sources.listing import UNDIVIDED, Item, Listing, PackOptions, make_key


def check_argument(argument: str) -> None:
    if argument:
        raise ShardsError(f"digits takes no argument; write digits, not digits:{argument}")


def list_images(argument: str, options: PackOptions) -> Listing:
    """Classes 0 to 9, not split; the original values 0..16 become 0..255."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images_NHW = np.round(bunch.images * (255 / 16)).astype(np.uint8)
    items = [
        Item(make_key(str(label), "", number), "png", int(label), partial(encode_png, image))
        for number, (image, label) in enumerate(zip(images_NHW, bunch.target, strict=True))
    ]
    return Listing(tuple(str(digit) for digit in range(10)), {UNDIVIDED: items})
