"""What every kind of source gives: a listing of images that are read only when asked for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shards.splits import SplitRule

UNDIVIDED = "all"
"""The only split of a source that has no official ones."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image: its key in the tar (no dots), file extension in lower case, class number, and its bytes on demand.

    `path`: where it is a file of its own.
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
    """What to pack and how. `root` and `download` say only where data is; the others decide the bytes of the tars.

    root: folder of a torchvision dataset (None: the user's cache folder).
    classes: names to keep, in the order that numbers them (None: all).
    split: images per class (int), fractions (float in (0, 1)), or "rest", by split (None: official, or 0.7/0.15/rest).
    seed: of the split, of the order of train images and of synthetic images.
    max_side: longest side in pixels; larger images are re-encoded (None: original bytes).
    images_per_shard: images in every shard but a split's last.
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
    """Unique by `number`; short and plain ASCII, so that any tar format and reader takes it."""
    readable = [re.sub(r"[^0-9A-Za-z]+", "_", part).strip("_") for part in (class_name[:24], stem[:40])]
    return "-".join([*filter(None, readable), f"{number:07d}"])
