"""Fused flips and crops against torchvision's, one after another."""

from __future__ import annotations

import numpy as np
import pytest
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from launcher.augment.execute import apply_fused_ops
from launcher.augment.fuse import fuse_ops
from launcher.augment.ops_table import draw_parameters
from launcher.recipe.augment import CenterCrop, HorizontalFlip, RandomCrop, Resize, Rotation, TrainOp, VerticalFlip
from tests.augment.photographs import in_a_block, load_photographs, worst_difference

PHOTOGRAPHS = load_photographs()
BLOCK = in_a_block(PHOTOGRAPHS)
SIZES = BLOCK.sizes_B2
IDS = np.array([3, 1, 4, 15, 9, 26])
FLIP, TIP = HorizontalFlip(op="horizontal_flip"), VerticalFlip(op="vertical_flip")
SMALL, LARGE = CenterCrop(op="center_crop", size=(101, 64)), CenterCrop(op="center_crop", size=(500, 701))
PADDED = RandomCrop(op="random_crop", size=(70, 57), padding=30)
FAR = RandomCrop(op="random_crop", size=3, padding=40)


def moved(image: Tensor, name: str, parameter: list[int] | bool, size: list[int]) -> Tensor:
    """One operation as torchvision does it."""
    if isinstance(parameter, bool):
        flip = reference.hflip if name == "horizontal_flip" else reference.vflip
        image = flip(image) if parameter else image
        assert isinstance(image, Tensor)
        return image
    around = reference.pad(image, [400])
    assert isinstance(around, Tensor)
    top, left = (offset + 400 for offset in parameter)
    return around[:, top : top + size[0], left : left + size[1]]


@pytest.mark.parametrize(
    "ops",
    [(FLIP,), (TIP,), (LARGE, FLIP), (SMALL, LARGE), (FLIP, PADDED, TIP, LARGE, FLIP, SMALL), (PADDED, FAR, FLIP)],
)
def test_flips_and_crops_are_one_pass_that_equals_torchvision(ops: tuple[TrainOp, ...]) -> None:
    drawn_ops = draw_parameters(ops, SIZES, IDS, 1, 2)
    fused_ops = fuse_ops(SIZES, drawn_ops)
    assert len(fused_ops) == 1
    expected = list(PHOTOGRAPHS)
    for drawn in drawn_ops:
        values = zip(expected, drawn.parameters.tolist(), drawn.sizes_B2.tolist(), strict=True)
        expected = [moved(image, drawn.name, parameter, size) for image, parameter, size in values]
    assert worst_difference(apply_fused_ops(BLOCK, fused_ops).float(), expected) == 0


def test_flips_and_crops_fuse_into_the_operation_before_them() -> None:
    rotate, scale = Rotation(op="rotation", degrees=9.0), Resize(op="resize", size=80)
    ops: tuple[TrainOp, ...] = (FLIP, scale, FLIP, rotate, TIP, SMALL, rotate, PADDED)
    fused_ops = fuse_ops(SIZES, draw_parameters(ops, SIZES, IDS, 1, 2))
    names = [None if fused.drawn is None else fused.drawn.name for fused in fused_ops]
    assert names == [None, "resize", "rotation", "rotation"]
    assert fused_ops[2].window.rows_Bh.shape == (6, 101)


def test_no_operation_is_no_pass() -> None:
    assert fuse_ops(SIZES, []) == []
    assert worst_difference(apply_fused_ops(BLOCK, []).float(), list(PHOTOGRAPHS)) == 0


@pytest.mark.parametrize("side", [11, 12, 13])
def test_a_crop_that_begins_at_the_corner_is_a_pass(side: int) -> None:
    """The center 11 of 12 pixels begin at 0."""
    image = PHOTOGRAPHS[0][:, :side, :side]
    block = in_a_block([image, image])
    fused_ops = fuse_ops(
        block.sizes_B2, draw_parameters((CenterCrop(op="center_crop", size=11),), block.sizes_B2, IDS[:2], 1, 2)
    )
    assert len(fused_ops) == (side > 11)
    expected = reference.center_crop(image, [11, 11]).float()
    assert worst_difference(apply_fused_ops(block, fused_ops).float(), [expected, expected]) == 0
