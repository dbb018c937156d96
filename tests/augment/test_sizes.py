"""Sizes after an operation, and the smallest image that is enough to decode."""

from __future__ import annotations

import math

import numpy as np
import pytest

from launcher.augment.ops_table import draw_parameters
from launcher.augment.sizes import DECODE_MARGIN, find_min_side, resized_sizes
from launcher.recipe.augment import CenterCrop, HorizontalFlip, RandomResizedCrop, Resize, TrainOp


def test_resized_sizes_round_as_torchvision_does() -> None:
    sizes_B2 = np.array([[375, 500], [500, 375], [101, 299], [64, 64]])
    assert resized_sizes(sizes_B2, 256).tolist() == [[256, 341], [341, 256], [256, 757], [256, 256]]
    assert resized_sizes(sizes_B2, (8, 9)).tolist() == [[8, 9]] * 4


@pytest.mark.parametrize(
    ("op", "side"),
    [
        (Resize(op="resize", size=256), 512),
        (Resize(op="resize", size=(100, 300)), 600),
        (RandomResizedCrop(op="random_resized_crop", size=224), math.ceil(448 / math.sqrt(0.08 * 0.75))),
        (RandomResizedCrop(op="random_resized_crop", size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0)), 64),
        (RandomResizedCrop(op="random_resized_crop", size=32, scale=(0.25, 1.0), ratio=(0.5, 1.5)), 182),
        (CenterCrop(op="center_crop", size=224), None),
    ],
)
def test_min_side_is_the_margin_of_the_smallest_crop(op: TrainOp, side: int | None) -> None:
    assert find_min_side([op, HorizontalFlip(op="horizontal_flip")]) == side


def test_min_side_is_none_where_the_first_operation_does_not_scale() -> None:
    assert find_min_side([]) is None
    assert find_min_side([HorizontalFlip(op="horizontal_flip"), Resize(op="resize", size=9)]) is None


@pytest.mark.parametrize("ratio", [(0.4, 3.0), (3.0, 4.0), (0.2, 0.3)])
def test_every_crop_of_an_image_of_min_side_is_shrunk(ratio: tuple[float, float]) -> None:
    op = RandomResizedCrop(op="random_resized_crop", size=(20, 30), scale=(0.1, 1.0), ratio=ratio)
    side = find_min_side([op])
    assert side is not None
    sizes_B2 = np.array([(side, side), (side, 3 * side), (2 * side, side)] * 2000)
    boxes_B4 = draw_parameters([op], sizes_B2, np.arange(6000), 0, 0)[0].parameters.astype(np.int64)
    assert (boxes_B4[:, 2:] >= DECODE_MARGIN * 30 - 1).all()  # boxes are rounded
    assert boxes_B4[:, 2:].min() < DECODE_MARGIN * 30 * 1.2
