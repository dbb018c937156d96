"""Parts of all ids, for evaluation and for features."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from launcher.data.ids import part_bounds, portion_ids


@given(num=st.integers(1, 200), world=st.integers(1, 8), batch=st.integers(1, 30))
def test_portions_have_each_image_once_over_all_ranks_in_the_fewest_steps(num: int, world: int, batch: int) -> None:
    ranks = [portion_ids(num, world, batch, rank) for rank in range(world)]
    [(steps, width)] = {ids.shape for ids in ranks}
    assert width == batch
    assert (steps - 1) * world * batch < num <= steps * world * batch, "the fewest"
    every = np.concatenate([ids.ravel() for ids in ranks])
    assert sorted(every[every >= 0].tolist()) == list(range(num))
    assert set(every[every < 0].tolist()) <= {-1}
    assert every[every >= 0].tolist() == sorted(every[every >= 0].tolist()), "each rank has neighbours"
    assert len(every) - num < world * batch


@given(num=st.integers(1, 200), world=st.integers(1, 12), batch=st.integers(1, 40))
def test_portions_cover_every_image_once_in_equally_many_steps(num: int, world: int, batch: int) -> None:
    portions = [portion_ids(num, world, batch, rank) for rank in range(world)]
    assert len({ids.shape for ids in portions}) == 1
    ids = np.concatenate([ids[ids >= 0] for ids in portions])
    assert ids.tolist() == list(range(num))
    bounds = part_bounds(num, world)
    for rank, mine in enumerate(portions):
        assert mine[mine >= 0].tolist() == list(range(bounds[rank], bounds[rank + 1]))
        assert (np.diff((mine.ravel() < 0).astype(int)) >= 0).all(), "padding is at the end"
