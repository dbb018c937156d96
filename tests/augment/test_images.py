"""Packed images against each one by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.draw import whole_boxes
from launcher.augment.images import PackedImages, packed_images_of
from tests.augment.photographs import in_a_block, load_photographs, pack

PHOTOGRAPHS = load_photographs()


def same_sized(num: int) -> list[Tensor]:
    return [PHOTOGRAPHS[0][:, i : i + 20, 3 * i : 3 * i + 30] for i in range(num)]


@pytest.mark.parametrize("images", [PHOTOGRAPHS, same_sized(5)])
def test_each_image_is_at_its_place_in_the_block(images: list[Tensor]) -> None:
    block = in_a_block(images)
    for number, image in enumerate(images):
        assert torch.equal(block.image(number), image.permute(1, 2, 0))


def test_a_canvas_holds_each_image_in_its_top_left_corner() -> None:
    expected_BCHW, _ = pack(PHOTOGRAPHS)
    for block in (in_a_block(PHOTOGRAPHS), in_a_block(PHOTOGRAPHS[:3]).part(slice(0, 3))):
        assert torch.equal(block.canvas(), pack(PHOTOGRAPHS[: len(block.starts_B)])[0])
    block = in_a_block(PHOTOGRAPHS)
    assert torch.equal(block._gathered(whole_boxes(block.sizes_B2)), expected_BCHW)
    assert torch.equal(block.boxes(whole_boxes(block.sizes_B2)), expected_BCHW)


def test_a_canvas_of_boxes_holds_these_alone() -> None:
    boxes = [(3, 4, 60, 40), (0, 0, 427, 640), (119, 332, 1, 1), (63, 0, 1, 48), (0, 199, 201, 1), (5, 5, 290, 280)]
    expected_BCHW, _ = pack([x[:, y : y + h, x0 : x0 + w] for x, (y, x0, h, w) in zip(PHOTOGRAPHS, boxes, strict=True)])
    assert torch.equal(in_a_block(PHOTOGRAPHS).boxes(np.array(boxes)), expected_BCHW)


def test_a_canvas_of_one_size_is_the_block_itself() -> None:
    block = in_a_block(same_sized(5))
    assert torch.equal(block.canvas(), torch.stack(same_sized(5)))
    assert torch.equal(block.part(slice(2, 4)).canvas(), torch.stack(same_sized(5)[2:4]))
    assert block.part(slice(2, 4)).canvas().data_ptr() == block.pixels_PC[2 * 600].data_ptr()


def test_images_of_one_size_may_lie_anywhere_in_the_block() -> None:
    block = in_a_block(same_sized(5))
    rows = np.array([4, 0, 0, 3])
    some = PackedImages(block.pixels_PC, block.starts_B[rows], block.sizes_B2[rows])
    assert torch.equal(some.canvas(), torch.stack(same_sized(5))[torch.from_numpy(rows)])


def test_images_of_one_size_at_odd_places_are_copied_to_a_canvas() -> None:
    block = in_a_block([PHOTOGRAPHS[1], *same_sized(3)]).part(slice(1, 4))
    assert torch.equal(block.canvas(), torch.stack(same_sized(3)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_batch_becomes_packed_images_and_back(layout: torch.memory_format) -> None:
    images_BCHW = torch.stack(same_sized(4)).contiguous(memory_format=layout)
    assert torch.equal(packed_images_of(images_BCHW).canvas(), images_BCHW)
    assert packed_images_of(images_BCHW).sizes_B2.tolist() == [[20, 30]] * 4
