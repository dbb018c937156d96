"""The rows, or the columns, that any sequence of crops and flips keeps of each image: four numbers an image.

A GPU is sent these and makes the lines itself: lines of 224 pixels of 256 images would be 450 KB from pageable memory,
for which the host may wait (`groups`).

Shapes: B images; I pixels of the result along one axis.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from launcher.augment.arrays import BOOL, INT64

BLACK = -1


@dataclass(frozen=True)
class Lines:
    """Pixel i of a result of `num` pixels is pixel start + step * i of its image for low <= i < high, else black."""

    starts_B: INT64
    steps_B: INT64
    """1, or -1 where mirrored."""
    lows_B: INT64
    highs_B: INT64
    num: int

    @cached_property
    def sources_BI(self) -> INT64:  # noqa: N802 - the shape's suffix
        """The source of each pixel of the result; BLACK where there is none."""
        pixels_I = np.arange(self.num)
        is_inside_BI = (pixels_I >= self.lows_B[:, None]) & (pixels_I < self.highs_B[:, None])
        return np.where(is_inside_BI, self.starts_B[:, None] + self.steps_B[:, None] * pixels_I, BLACK)

    @property
    def has_black(self) -> bool:
        return bool((self.lows_B > 0).any() or (self.highs_B < self.num).any())

    def is_whole(self, lengths_B: INT64) -> bool:
        """Whether it leaves lines of these lengths as they are."""
        is_forward_B = (self.starts_B == 0) & ((self.steps_B == 1) | (lengths_B == 1))
        is_all_B = (self.lows_B <= 0) & (self.highs_B == lengths_B)
        return self.num == lengths_B.max() and bool((is_forward_B & is_all_B).all())

    def then(self, later: Lines) -> Lines:
        """These lines followed by later ones."""
        starts_B, is_forward_B = later.starts_B, later.steps_B > 0
        # Where the later line lies within this one's pixels.
        from_B = np.where(is_forward_B, self.lows_B - starts_B, starts_B - self.highs_B + 1)
        to_B = np.where(is_forward_B, self.highs_B - starts_B, starts_B - self.lows_B + 1)
        lows_B, highs_B = np.maximum(later.lows_B, from_B), np.minimum(later.highs_B, to_B)
        return Lines(self.starts_B + self.steps_B * starts_B, self.steps_B * later.steps_B, lows_B, highs_B, later.num)

    def mirrored(self, flips_B: BOOL) -> Lines:
        """Lines that were whole, end to end where flipped."""
        starts_B = np.where(flips_B, self.highs_B - 1, self.starts_B)
        return replace(self, starts_B=starts_B, steps_B=np.where(flips_B, -1, self.steps_B))

    def part(self, images: slice | INT64) -> Lines:
        """Those of some images."""
        starts_B, steps_B, lows_B, highs_B = self.starts_B, self.steps_B, self.lows_B, self.highs_B
        return Lines(starts_B[images], steps_B[images], lows_B[images], highs_B[images], self.num)

    def trimmed(self) -> Lines:
        """Without the pixels at the end that are black in every image."""
        return replace(self, num=int(self.highs_B.max()))

    def needed(self) -> tuple[INT64, INT64]:
        """First pixel of each image that is a source, and how many from there on: at least one."""
        firsts_B, lasts_B = (self.starts_B + self.steps_B * ends_B for ends_B in (self.lows_B, self.highs_B - 1))
        is_seen_B = self.lows_B < self.highs_B
        needed_B = np.where(is_seen_B, np.abs(lasts_B - firsts_B) + 1, 1)
        return np.where(is_seen_B, np.minimum(firsts_B, lasts_B), 0), needed_B

    def moved(self, offsets_B: INT64) -> Lines:
        """The same pixels of images that begin at these ones."""
        return replace(self, starts_B=self.starts_B - offsets_B)


def crop_lines(starts_B: INT64, lengths_B: INT64, num: int) -> Lines:
    """`num` pixels from each start, which may be negative; black outside of the line of this length."""
    lows_B, highs_B = np.clip(-starts_B, 0, num), np.clip(lengths_B - starts_B, 0, num)
    return Lines(starts_B, np.ones_like(starts_B), lows_B, highs_B, num)
