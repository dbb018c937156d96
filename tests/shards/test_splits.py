from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.manifest import ShardsError
from shards.splits import UNASSIGNED, Share, canonical_rule, divide, seeded_order


def split_numbers(counts: dict[str, int], rule: dict[str, Share], seed: int = 0) -> dict[str, list[tuple[str, int]]]:
    groups = {name: [(name, i) for i in range(count)] for name, count in counts.items()}
    return divide(groups, lambda image: f"{image[0]}{image[1]}", canonical_rule(rule), seed)


def test_whole_numbers_take_images_in_file_order() -> None:
    parts = split_numbers({"bear": 80, "chimp": 73}, {"test": "rest", "train": 60, "val": 10})
    assert parts["train"] == [(name, i) for name in ("bear", "chimp") for i in range(60)]
    assert parts["valid"] == [(name, i) for name in ("bear", "chimp") for i in range(60, 70)]
    assert parts["test"] == [("bear", i) for i in range(70, 80)] + [("chimp", i) for i in range(70, 73)]
    assert list(parts) == ["train", "valid", "test", UNASSIGNED]
    assert parts[UNASSIGNED] == []


def test_images_in_no_split_are_unassigned() -> None:
    assert len(split_numbers({"a": 10}, {"train": 6, "test": 1})[UNASSIGNED]) == 3
    assert len(split_numbers({"a": 10}, {"train": 0.6, "test": 0.1})[UNASSIGNED]) == 3


def test_class_with_too_few_images_is_refused() -> None:
    with pytest.raises(ShardsError, match=r"class chimp: the split needs 70 images, found 69"):
        split_numbers({"bear": 70, "chimp": 69}, {"train": 60, "valid": 10})


def test_fractions_shuffle_each_class_by_the_seed() -> None:
    rule: dict[str, Share] = {"train": "rest", "valid": 0.1}
    first, again, other = (split_numbers({"a": 100, "b": 50}, rule, seed) for seed in (0, 0, 1))
    assert first == again != other
    assert Counter(name for name, _ in first["valid"]) == {"a": 10, "b": 5}
    assert first["valid"] != [("a", i) for i in range(10)] + [("b", i) for i in range(5)]


@given(
    counts=st.lists(st.integers(1, 40), max_size=12).map(lambda each: [*each, 100]),
    train=st.sampled_from([0.5, 0.6, 0.7]),
    valid=st.sampled_from([0.1, 0.15, 0.29]),
    has_rest=st.booleans(),
)
def test_fractions_divide_all_images_with_right_totals(
    counts: list[int], train: float, valid: float, has_rest: bool
) -> None:
    rule: dict[str, Share] = {"train": train, "valid": valid}
    if has_rest:
        rule["test"] = "rest"
    named = {f"c{k}": count for k, count in enumerate(counts)}
    parts = split_numbers(named, rule)
    everything = [image for part in parts.values() for image in part]
    assert sorted(everything) == sorted((name, i) for name, count in named.items() for i in range(count))
    for split, fraction in (("train", train), ("valid", valid)):
        assert abs(len(parts[split]) - fraction * sum(counts)) < 1
        per_class = Counter(name for name, _ in parts[split])
        assert all(abs(per_class[name] - fraction * count) < 2 for name, count in named.items())


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"train": 60, "valid": 0.1}, "cannot be mixed"),
        ({"train": 0.9, "valid": 0.2}, "add up to 1.1"),
        ({"train": 0.9, "valid": 0.1, "test": "rest"}, "nothing is left"),
        ({"train": "rest", "valid": "rest"}, "only one split"),
        ({"train": 0}, "must be images per class"),
        ({"train": True}, "must be images per class"),
        ({"train": 1.0}, "must be images per class"),
        ({"train": "half"}, "must be images per class"),
        ({"train": 1, "dev": 1}, "names must be train, valid, test"),
        ({"train": 1, "val": 1, "valid": 1}, "each once"),
        ({"test": "rest"}, "add train, for example train=rest"),
        ({}, "add train"),
    ],
)
def test_invalid_rule_is_refused(rule: dict[str, Share], words: str) -> None:
    with pytest.raises(ShardsError, match=words):
        canonical_rule(rule)


def test_empty_split_is_refused() -> None:
    with pytest.raises(ShardsError, match="test would be empty"):
        split_numbers({"a": 60}, {"train": 60, "test": "rest"})


def test_seeded_order_is_a_permutation_per_seed_and_purpose() -> None:
    keys = [f"k{i}" for i in range(100)]
    assert sorted(seeded_order(keys, 0, "shuffle")) == list(range(100))
    orders = {tuple(seeded_order(keys, seed, purpose)) for seed in (0, 1) for purpose in ("shuffle", "split")}
    assert len(orders) == 4
