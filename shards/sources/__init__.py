"""Sources of images, by a name like `digits`, `imagefolder:PATH`, `torchvision:CIFAR10` or `synthetic:10x100`.

Each module here is one kind: `list_images(argument, options)` lists the images, `check_argument(argument)` finds a
wrong name without touching data or importing anything slow.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

from shards.manifest import ShardsError
from shards.sources import digits, imagefolder, synthetic, torchvision
from shards.sources.listing import UNDIVIDED, Item, Listing, PackOptions
from shards.splits import DEFAULT_RULE, SPLITS, UNASSIGNED, Share, canonical_rule, divide

__all__ = ["SOURCES", "Item", "Listing", "PackOptions", "check_source_name", "describe", "open_source"]

SOURCES: Mapping[str, tuple[Callable[[str], None], Callable[[str, PackOptions], Listing]]] = {
    "digits": (digits.check_argument, digits.list_images),
    "imagefolder": (imagefolder.check_argument, imagefolder.list_images),
    "synthetic": (synthetic.check_argument, synthetic.list_images),
    "torchvision": (torchvision.check_argument, torchvision.list_images),
}
"""Kind of source -> its `check_argument` and `list_images`."""


def check_source_name(name: str) -> None:
    """Raise ShardsError, with the nearest valid name, when there is no source `name`. Fast: touches no data."""
    kind, _, argument = name.partition(":")
    if kind not in SOURCES:
        nearest = difflib.get_close_matches(kind.lower(), SOURCES, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}?" if nearest else f"sources are {', '.join(SOURCES)}"
        raise ShardsError(f"unknown source {name!r}; {hint}")
    check_argument, _ = SOURCES[kind]
    check_argument(argument)


def describe(name: str, options: PackOptions) -> str:
    """One line with everything that determines the bytes of the shards: the `source` of their manifest."""
    rule = options.split and ",".join(f"{split}={share}" for split, share in canonical_rule(options.split).items())
    settings = {
        "classes": options.classes and ",".join(options.classes),
        "split": rule,
        "seed": options.seed,
        "max_side": options.max_side,
        "images_per_shard": options.images_per_shard,
    }
    return " ".join([name, *(f"{key}={value}" for key, value in settings.items() if value is not None)])


def open_source(name: str, options: PackOptions) -> Listing:
    """The chosen classes of a source whose name has been checked, split. Raise ShardsError on any user error."""
    rule = None if options.split is None else canonical_rule(options.split)
    kind, _, argument = name.partition(":")
    _, list_images = SOURCES[kind]
    listing = list_images(argument, options)
    if options.classes is not None:
        listing = _choose_classes(name, listing, options.classes)
    splits, num_unassigned = _divide(name, listing, rule, options.seed)
    notes = (f"{num_unassigned} images are unassigned: no split takes them",) if num_unassigned else ()
    for split in ("train", *splits):
        if not splits.get(split):
            raise ShardsError(f"{name}: no {split} images")
    return Listing(listing.classes, splits, listing.notes + notes)


def _choose_classes(name: str, listing: Listing, wanted: Sequence[str]) -> Listing:
    numbers = [_find_class(name, listing.classes, each) for each in wanted]
    if len(set(numbers)) < len(numbers) or not numbers:
        raise ShardsError(f"{name}: name each class once; got {', '.join(wanted) or 'none'}")
    new_label = {old: new for new, old in enumerate(numbers)}

    def choose(items: Iterable[Item]) -> list[Item]:
        return [replace(item, label=new_label[item.label]) for item in items if item.label in new_label]

    splits = {split: choose(items) for split, items in listing.splits.items()}
    return Listing(tuple(wanted), splits, listing.notes)


def _find_class(name: str, classes: Sequence[str], wanted: str) -> int:
    """Number of the class `wanted`, or `<digits>.wanted` as in the folders of Caltech256."""
    if wanted in classes:
        return classes.index(wanted)
    short = [re.sub(r"^\d+\.(?=.)", "", each) for each in classes]
    if short.count(wanted) == 1:
        return short.index(wanted)
    if wanted in short:
        raise ShardsError(f"{name}: several classes are called {wanted!r}; give the full name")
    nearest = difflib.get_close_matches(wanted, [*short, *classes], n=1, cutoff=0.0)
    raise ShardsError(f"{name}: no class {wanted!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ""))


def _divide(
    name: str, listing: Listing, rule: Mapping[str, Share] | None, seed: int
) -> tuple[dict[str, Sequence[Item]], int]:
    """Splits in canonical order, and the number of unassigned images."""
    is_official = UNDIVIDED not in listing.splits
    if is_official and rule is None:
        return {split: listing.splits[split] for split in SPLITS if split in listing.splits}, 0
    taken = [split for split in rule or () if is_official and split != "train" and split in listing.splits]
    if taken:
        raise ShardsError(f"{name}: has an official {taken[0]} split; split may only divide its train images")
    groups: dict[str, list[Item]] = {each: [] for each in listing.classes}
    for item in listing.splits["train" if is_official else UNDIVIDED]:
        groups[listing.classes[item.label]].append(item)
    parts = divide(groups, lambda item: item.key, DEFAULT_RULE if rule is None else rule, seed)
    unassigned = parts.pop(UNASSIGNED)
    whole = {**listing.splits, **parts}
    return {split: whole[split] for split in SPLITS if split in whole}, len(unassigned)
