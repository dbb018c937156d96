"""Sample ids: the place of an image in its split, shard after shard in the manifest's order. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from launcher.augment.arrays import INT64

Ids = INT64

Work = Iterable[tuple[int, Ids]]
"""Batches of ids: (epoch, ids_B) for a feed, (view, ids_B) for a loader; id -1 is padding.

A view is the epoch, modulo `augment.views` if set.
"""


def part_bounds(num_images: int, num_parts: int) -> Ids:
    """First id of each of `num_parts` equal parts, the last ones smaller, and `num_images`: shape [num_parts + 1]."""
    return np.minimum(np.arange(num_parts + 1, dtype=np.int64) * -(-num_images // num_parts), num_images)


def part_ids(num_images: int, num_parts: int, number: int) -> Ids:
    """The ids of one of these parts."""
    return np.arange(*part_bounds(num_images, num_parts)[number : number + 2])


def portion_ids(num_images: int, world_size: int, batch: int, rank: int) -> Ids:
    """The ids of part `rank` of `world_size` in order, shape [steps, batch]; -1 is padding at the end.

    Every rank gets the same number of steps; all parts together are each image once.
    """
    mine, longest = part_ids(num_images, world_size, rank), -(-num_images // world_size)
    ids = np.full((-(-longest // batch), batch), -1, dtype=np.int64)
    ids.reshape(-1)[: len(mine)] = mine
    return ids
