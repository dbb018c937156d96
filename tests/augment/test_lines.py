"""Lines as four numbers an image against the pixels themselves, moved one operation after the other."""

from __future__ import annotations

import numpy as np
import pytest

from launcher.augment.arrays import INT64
from launcher.augment.lines import BLACK, Lines, crop_lines

LENGTHS = np.array([1, 2, 5, 9, 30, 300])


def crop(pixels_BI: INT64, starts_B: INT64, num: int) -> INT64:
    """`num` pixels of each row from its start on, BLACK outside."""
    around_BI = np.pad(pixels_BI, [(0, 0), (400, 800)], constant_values=BLACK)
    cut_BI: INT64 = around_BI[np.arange(len(starts_B))[:, None], starts_B[:, None] + 400 + np.arange(num)]
    return cut_BI


def whole(lengths_B: INT64) -> Lines:
    return crop_lines(np.zeros_like(lengths_B), lengths_B, int(lengths_B.max()))


@pytest.mark.parametrize("seed", range(40))
def test_lines_of_crops_and_flips_are_the_pixels_that_they_keep(seed: int) -> None:
    chance = np.random.default_rng(seed)
    lines, lengths_B = whole(LENGTHS), LENGTHS
    pixels_BI = np.where(np.arange(300) < LENGTHS[:, None], np.arange(300), BLACK)
    for _ in range(chance.integers(1, 6)):
        if chance.random() < 0.5:
            flips_B = chance.random(6) < 0.5
            lines = lines.then(whole(lengths_B).mirrored(flips_B))
            for row, (flip, length) in enumerate(zip(flips_B, lengths_B, strict=True)):
                pixels_BI[row, :length] = pixels_BI[row, :length][:: -1 if flip else 1].copy()
        else:
            starts_B, num = chance.integers(-20, 40, 6), int(chance.integers(1, 60))
            lines = lines.then(crop_lines(starts_B, lengths_B, num))
            pixels_BI, lengths_B = crop(pixels_BI, starts_B, num), np.full(6, num)
    assert np.array_equal(lines.sources_BI, pixels_BI)
    assert lines.has_black == (pixels_BI == BLACK).any()
    assert lines.is_whole(LENGTHS) == np.array_equal(pixels_BI, whole(LENGTHS).sources_BI)
    check_needed(lines, pixels_BI)


def check_needed(lines: Lines, pixels_BI: INT64) -> None:
    """The pixels needed are those seen, and lines of these alone see the same."""
    firsts_B, nums_B = lines.needed()
    for first, num, seen in zip(firsts_B, nums_B, pixels_BI, strict=True):
        inside = seen[seen != BLACK]
        assert (first, num) == ((inside.min(), np.ptp(inside) + 1) if len(inside) else (0, 1))
    moved_BI = np.where(pixels_BI == BLACK, BLACK, pixels_BI - firsts_B[:, None])
    assert np.array_equal(lines.moved(firsts_B).sources_BI, moved_BI)


def test_a_part_is_trimmed_to_its_longest_line() -> None:
    some = whole(LENGTHS).part(np.array([3, 1])).trimmed()
    assert some.sources_BI.tolist() == [list(range(9)), [0, 1, *[BLACK] * 7]]


@pytest.mark.parametrize("flips", [[True], [False]])
def test_a_flip_of_one_pixel_leaves_it_whole(flips: list[bool]) -> None:
    assert whole(LENGTHS[:1]).mirrored(np.array(flips)).is_whole(LENGTHS[:1])
