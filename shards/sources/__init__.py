"""Sources of images, by a name like `digits`, `imagefolder:PATH`, `torchvision:CIFAR10` or `synthetic:10x100`.

Each module here is one kind: `list_images(argument, options)` lists the images, `check_argument(argument)` finds a
wrong name without touching data or importing anything slow.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from shards.manifest import ShardsError
from shards.sources import digits, imagefolder, synthetic, torchvision
from shards.sources.listing import UNDIVIDED, Item, Listing, PackOptions
from shards.splits import DEFAULT_RULE, SPLITS, UNASSIGNED, Share, canonical_rule, divide

__all__ = ["SOURCES", "Item", "PackOptions", "Source", "check_source_name", "describe", "open_source"]

SOURCES: Mapping[str, Callable[[str, PackOptions], Listing]] = {
    "digits": digits.list_images,
    "imagefolder": imagefolder.list_images,
    "synthetic": synthetic.list_images,
    "torchvision": torchvision.list_images,
}

ARGUMENT_CHECKS: Mapping[str, Callable[[str], None]] = {
    "digits": digits.check_argument,
    "imagefolder": imagefolder.check_argument,
    "synthetic": synthetic.check_argument,
    "torchvision": torchvision.check_argument,
}


@dataclass(frozen=True)
class Source:
    """Images by split, in file order. `notes`: messages about ignored files and unassigned images."""

    name: str
    classes: tuple[str, ...]
    splits: Mapping[str, Sequence[Item]]
    notes: tuple[str, ...] = ()


def check_source_name(name: str) -> None:
    """Raise ShardsError, with the nearest valid name, when there is no source `name`. Fast: touches no data."""
    kind, _, argument = name.partition(":")
    if kind not in SOURCES:
        nearest = difflib.get_close_matches(kind.lower(), SOURCES, n=1, cutoff=0.4)
        hint = f"did you mean {nearest[0]}?" if nearest else f"sources are {', '.join(SOURCES)}"
        raise ShardsError(f"unknown source {name!r}; {hint}")
    ARGUMENT_CHECKS[kind](argument)


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


def open_source(name: str, options: PackOptions) -> Source:
    """List the images of `name`, choose the classes and split them. Raise ShardsError on any user error."""
    check_source_name(name)
    rule = canonical_rule(options.split) if options.split is not None else None
    kind, _, argument = name.partition(":")
    listing = SOURCES[kind](argument, options)
    if options.classes is not None:
        listing = _choose_classes(name, listing, options.classes)
    splits, num_unassigned = _divide(name, listing, rule, options.seed)
    notes = listing.notes
    if num_unassigned:
        notes += (f"{num_unassigned} images are unassigned: no split takes them",)
    for split in ("train", *splits):
        if not splits.get(split):
            raise ShardsError(f"{name}: no {split} images")
    return Source(name, listing.classes, splits, notes)


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
    short = [_without_number(each) for each in classes]
    if short.count(wanted) == 1:
        return short.index(wanted)
    if wanted in short:
        raise ShardsError(f"{name}: several classes are called {wanted!r}; give the full name")
    nearest = difflib.get_close_matches(wanted, [*short, *classes], n=1, cutoff=0.0)
    raise ShardsError(f"{name}: no class {wanted!r}" + (f"; did you mean {nearest[0]!r}?" if nearest else ""))


def _without_number(folder: str) -> str:
    number, _, rest = folder.partition(".")
    return rest if number.isdigit() and rest else folder


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
    keys = {each: [item.key for item in items] for each, items in groups.items()}
    parts = divide(groups, keys, canonical_rule(DEFAULT_RULE) if rule is None else rule, seed)
    unassigned = parts.pop(UNASSIGNED)
    whole = {**listing.splits, **parts}
    return {split: whole[split] for split in SPLITS if split in whole}, len(unassigned)
