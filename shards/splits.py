"""The split and the order of images, as pure functions of names, counts and a seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, TypeVar

from shards.manifest import ShardsError

SPLITS = ("train", "valid", "test")
ALIASES = {"val": "valid", "validation": "valid"}

Share = int | float | Literal["rest"]
SplitRule = Mapping[str, Share]
DEFAULT_RULE: SplitRule = {"train": 0.7, "valid": 0.15, "test": "rest"}

UNASSIGNED = ""
"""Key of the images in no split."""

T = TypeVar("T")


def canonical_split(name: str) -> str:
    """`valid` for `val` and `validation`; other names as they are."""
    return ALIASES.get(name, name)


def seeded_order(keys: Iterable[str], seed: int, purpose: str) -> list[int]:
    """Positions of `keys` in an order that depends on seed, purpose and each key, but on no library's generator."""
    digests = [hashlib.sha256(f"{seed}/{purpose}/{key}".encode()).digest() for key in keys]
    return sorted(range(len(digests)), key=digests.__getitem__)


def canonical_rule(rule: SplitRule) -> dict[str, Share]:
    """The rule with canonical names in canonical order. Raise ShardsError when it is invalid."""
    shares = {canonical_split(name): share for name, share in rule.items()}
    if len(shares) < len(rule) or not set(shares) <= set(SPLITS):
        raise ShardsError(f"split: names must be {', '.join(SPLITS)}, each once; got {', '.join(rule) or 'none'}")
    if "train" not in shares:
        raise ShardsError("split: add train, for example train=rest")
    for name, share in shares.items():
        is_count = isinstance(share, int) and not isinstance(share, bool) and share >= 1
        is_fraction = isinstance(share, float) and 0 < share < 1
        if not (is_count or is_fraction or share == "rest"):
            raise ShardsError(
                f"split: {name}={share} must be images per class (1 or more), a fraction between 0 and 1, or rest"
            )
    kinds = {type(share) for share in shares.values() if share != "rest"}
    if kinds == {int, float}:
        raise ShardsError("split: images per class (whole numbers) and fractions cannot be mixed")
    if sum(share == "rest" for share in shares.values()) > 1:
        raise ShardsError("split: only one split can be the rest")
    total = sum(share for share in shares.values() if isinstance(share, float))
    if total > 1 + 1e-9 or ("rest" in shares.values() and total > 1 - 1e-9):
        raise ShardsError(f"split: the fractions add up to {total:g}; nothing is left")
    return {name: shares[name] for name in SPLITS if name in shares}


def divide(
    groups: Mapping[str, Sequence[T]], key_of: Callable[[T], str], rule: SplitRule, seed: int
) -> dict[str, list[T]]:
    """Divide each class of `groups` by a canonical `rule`. Images in no split are under UNASSIGNED.

    Whole numbers take images in file order. Fractions take a seeded shuffle of each class; rounding errors carry over
    from class to class, so that each split's total is its fraction of all within one image. `key_of(image)`: the
    shuffle's only input. Raise ShardsError when a class has too few images or a split gets none.
    """
    parts: dict[str, list[T]] = {name: [] for name in (*rule, UNASSIGNED)}
    carried = dict.fromkeys(parts, 0.0)
    has_fractions = any(isinstance(share, float) for share in rule.values())
    for name, members in groups.items():
        if has_fractions:
            sizes = _fraction_sizes(len(members), rule, carried)
            order = seeded_order(map(key_of, members), seed, "split")
        else:
            sizes, order = _count_sizes(name, len(members), rule), list(range(len(members)))
        start = 0
        for split, size in sizes.items():
            parts[split] += [members[i] for i in sorted(order[start : start + size])]
            start += size
    for split in rule:
        if not parts[split]:
            raise ShardsError(f"split: {split} would be empty; give it more images, or omit it")
    return parts


def _count_sizes(name: str, available: int, rule: SplitRule) -> dict[str, int]:
    needed = sum(share for share in rule.values() if isinstance(share, int))
    if available < needed:
        raise ShardsError(f"class {name}: the split needs {needed} images, found {available}")
    sizes = {split: share if isinstance(share, int) else available - needed for split, share in rule.items()}
    return {**sizes, UNASSIGNED: available - sum(sizes.values())}


def _fraction_sizes(available: int, rule: SplitRule, carried: dict[str, float]) -> dict[str, int]:
    """Sizes by largest remainder, of this class's quotas plus the rounding errors of earlier classes in `carried`."""
    fractions = {split: share for split, share in rule.items() if isinstance(share, float)}
    remainder = next((split for split, share in rule.items() if share == "rest"), UNASSIGNED)
    quotas = {split: fraction * available + carried[split] for split, fraction in fractions.items()}
    quotas[remainder] = available - sum(quotas.values())
    sizes = {split: max(0, int(quota + 1e-9)) for split, quota in quotas.items()}
    while (missing := available - sum(sizes.values())) != 0:
        step = 1 if missing > 0 else -1
        candidates = [split for split, size in sizes.items() if size + step >= 0]
        sizes[max(candidates, key=lambda split: step * (quotas[split] - sizes[split]))] += step
    for split, quota in quotas.items():
        carried[split] = quota - sizes[split]
    return {split: sizes[split] for split in (*rule, UNASSIGNED) if split in sizes}
