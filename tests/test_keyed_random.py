"""Keyed random numbers: published and golden values, uniformity, and no state beside the key."""

from __future__ import annotations

import numpy as np
import pytest

from launcher import keyed_random
from launcher.keyed_random import UINT64

RANGE = np.arange(100_000, dtype=np.int64)


def fraction_of_ones(words: UINT64) -> float:
    return float(np.unpackbits(words.view(np.uint8)).mean())


def test_mix_is_one_step_of_splitmix64() -> None:
    """The published sequence for seed 1234567: the k-th output is mix(seed + k * gamma), counting from 0."""
    states = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert keyed_random.mix(states).tolist() == published


def test_numbers_never_change() -> None:
    assert keyed_random.bits(0).tolist() == [12035550249420947055]
    assert keyed_random.bits(1, 2, np.array([3, 4])).tolist() == [9812528628958509896, 10968459818407162609]
    assert keyed_random.bits(-1, 2**62).tolist() == [6688215125496396242]
    assert keyed_random.uniform(1, 2, 3, 4).tolist() == [0.9571686464482646]
    assert keyed_random.permutation(10, 1, 2).tolist() == [0, 6, 2, 7, 1, 9, 5, 3, 4, 8]


def test_keys_in_arrays_give_the_numbers_of_single_keys() -> None:
    table = keyed_random.bits(5, np.arange(3)[:, None], np.arange(4))
    assert table.shape == (3, 4)
    assert all(table[i, j] == keyed_random.bits(5, i, j)[0] for i in range(3) for j in range(4))


def test_exchanged_or_equal_parts_give_other_numbers() -> None:
    """Small keys, in every order and all equal, are what runs really use."""
    small = np.arange(24)
    cube = keyed_random.bits(0, small[:, None, None], small[:, None], small)
    seeds = np.stack([keyed_random.bits(seed, small[:, None], small) for seed in range(24)])
    assert len(np.unique(cube)) == len(np.unique(seeds)) == 24**3


@pytest.mark.parametrize("place", [0, 1, 2])
def test_numbers_are_uniform_in_each_part_of_the_key(place: int) -> None:
    key: list[int | np.ndarray[tuple[int], np.dtype[np.int64]]] = [7, 7, 7]
    key[place] = RANGE
    numbers = keyed_random.uniform(0, *key)
    assert 0 <= numbers.min() < 1e-3 < 1 - 1e-3 < numbers.max() < 1
    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))
    chi_squared = ((counts - 1000.0) ** 2 / 1000).sum()
    assert 60 < chi_squared < 149  # 99 degrees of freedom: p = 0.001 at either end
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.012


def test_one_bit_of_a_part_changes_half_of_the_result() -> None:
    words = keyed_random.bits(1, 2, RANGE[:1000, None])
    flipped = keyed_random.bits(1, 2, RANGE[:1000, None] ^ (1 << np.arange(62)))
    assert abs(fraction_of_ones(words ^ flipped) - 0.5) < 0.002


def test_permutation_is_a_bijection_that_depends_on_its_key() -> None:
    orders = [keyed_random.permutation(1000, *key) for key in ((1, 2), (2, 1), (1, 1), (2, 2), (1,))]
    assert all((np.sort(order) == RANGE[:1000]).all() for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)
    assert keyed_random.permutation(0, 1).size == 0
