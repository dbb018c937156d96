"""The result of every kind of source: a listing of images, each of which is read on demand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.splits import SplitRule

UNDIVIDED = "all"
"""The only split of a source without official splits."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image: key in the tar (no dots), file extension in lower case, class number, and its bytes on demand.

    `path`: its file, if it is one.
    """

    key: str
    extension: str
    label: int
    read: Callable[[], bytes]
    path: Path | None = None


@dataclass(frozen=True)
class Listing:
    """All images of a source in file order, by official split or under UNDIVIDED."""

    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Item]]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PackOptions:
    """Options of packing. All but `root` and `download` determine the bytes of the tars.

    root: folder of a torchvision dataset (None: the user's cache folder).
    classes: classes to use, in the order that numbers them (None: all).
    split: images per class (int), fractions (float in (0, 1)), or "rest", by split (None: official, or 0.7/0.15/rest).
    seed: seed of the split, of the order of train images and of synthetic images.
    max_side: longest side in pixels; larger images are shrunk (None: original bytes).
    images_per_shard: images per shard; the last shard of a split may have fewer.
    download: whether torchvision may use the network.
    """

    root: Path | None = None
    classes: tuple[str, ...] | None = None
    split: SplitRule | None = None
    seed: int = 0
    max_side: int | None = None
    images_per_shard: int = 1000
    download: bool = True


def make_key(class_name: str, stem: str, number: int) -> str:
    """A key made unique by `number`; short plain ASCII, which any tar format and reader accepts."""
    readable = [re.sub(r"[^0-9A-Za-z]+", "_", part).strip("_") for part in (class_name[:24], stem[:40])]
    return "-".join([*filter(None, readable), f"{number:07d}"])
