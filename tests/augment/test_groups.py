"""An operation is applied to the images that chose it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.arrays import FLOAT64
from launcher.augment.groups import Grouped, apply_groups, apply_where, per_image

IMAGES = torch.arange(5.0)[:, None, None, None].expand(5, 3, 2, 2)
VALUES = np.array([10.0, 20.0, 30.0, 40.0, 50.0])


def add(images_GCHW: Tensor, values_G: Tensor) -> Tensor:
    return images_GCHW + values_G[:, None, None, None]


def negate(images_GCHW: Tensor, values_G: FLOAT64) -> Tensor:
    return -images_GCHW


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ([0, 0, 0, 0, 0], [10, 21, 32, 43, 54]),
        ([0, 1, -1, 1, 0], [10, -1, 2, -3, 54]),
        ([-1, -1, -1, -1, -1], [0, 1, 2, 3, 4]),
        ([7, 1, 7, 7, 7], [0, -1, 2, 3, 4]),
    ],
)
def test_each_function_is_applied_to_the_images_that_chose_it(choices: list[int], expected: list[float]) -> None:
    before = IMAGES.clone()
    functions: list[Grouped] = [per_image(add), negate]
    results = apply_groups(IMAGES, np.array(choices), VALUES, functions)
    assert results[:, 0, 0, 0].tolist() == expected
    assert (results == results[:, :1, :1, :1]).all()
    assert torch.equal(IMAGES, before)


def test_apply_where_changes_the_chosen_images_only() -> None:
    chosen = np.array([True, False, False, True, False])
    assert apply_where(IMAGES, chosen, VALUES, per_image(add))[:, 0, 0, 0].tolist() == [10, 1, 2, 43, 4]
