"""The table of operations: what drawn parameters depend on, and sizes after a list."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.augment.arrays import INT64
from launcher.augment.ops_table import DRAWS, draw_parameters
from launcher.recipe.augment import CenterCrop, Resize, Rotation, TrainOp
from launcher.recipe.facts import output_size
from tests.augment.op_lists import EVAL, EVERYTHING, TRAIN

IDS = np.array([3, 1])


def test_every_operation_of_the_recipe_has_a_row() -> None:
    classes = get_args(get_args(TrainOp)[0])
    assert {get_args(model.model_fields["op"].annotation)[0] for model in classes} == set(DRAWS)


@given(data=st.data())
def test_parameters_do_not_depend_on_the_rest_of_the_batch(data: st.DataObject) -> None:
    ids: INT64 = np.array(data.draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=12, unique=True)))
    side = st.integers(1, 700)
    sizes_B2: INT64 = np.array([data.draw(st.tuples(side, side)) for _ in ids])
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(ids))), min_size=1, max_size=12)))
    seed, epoch = data.draw(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 1000)))
    whole = draw_parameters(EVERYTHING, sizes_B2, ids, seed, epoch)
    part = draw_parameters(EVERYTHING, sizes_B2[rows], ids[rows], seed, epoch)
    for of_whole, of_part in zip(whole, part, strict=True):
        assert np.array_equal(of_whole.parameters[rows], of_part.parameters)
        assert np.array_equal(of_whole.sizes_B2[rows], of_part.sizes_B2)


def test_parameters_never_change() -> None:
    boxes, angles, flips, corners = draw_parameters(TRAIN, np.array([[375, 500], [427, 640]]), IDS, 1, 2)
    assert boxes.parameters.tolist() == [[24, 41, 340, 447], [0, 36, 427, 568]]
    assert angles.parameters.tolist() == [8.026241933754253, 8.218247253210894]
    assert flips.parameters.tolist() == [True, False]
    assert corners.parameters.tolist() == [[16, 16]] * 2


@pytest.mark.parametrize(
    ("ops", "size"),
    [
        (TRAIN, (224, 224)),
        (EVAL, (224, 224)),
        (EVERYTHING, (28, 28)),
        (EVAL[:1], None),
        (TRAIN[1:3], None),
        ((), None),
        ((*EVAL, Rotation(op="rotation", degrees=1.0)), (224, 224)),
        ((CenterCrop(op="center_crop", size=9), Resize(op="resize", size=(20, 30))), (20, 30)),
        ((Resize(op="resize", size=(20, 30)), Resize(op="resize", size=10)), (10, 15)),
    ],
)
def test_output_size_of_a_recipe_is_that_of_the_table(ops: tuple[TrainOp, ...], size: tuple[int, int] | None) -> None:
    """A wide and a tall image: only a list that fixes the size gives both the same one."""
    assert output_size(ops) == size
    sizes_B2 = np.array([[100, 300], [300, 100]])
    after_B2 = draw_parameters(ops, sizes_B2, IDS, 0, 0)[-1].sizes_B2 if ops else sizes_B2
    found = {(height, width) for height, width in after_B2.tolist()}
    assert found == {size} if size is not None else len(found) == 2
