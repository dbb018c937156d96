"""Whole lists of a recipe against torchvision, and what their parameters depend on."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from launcher.augment.draw import INT64
from launcher.augment.images import PackedImages
from launcher.augment.ops import Interpolation
from launcher.augment.pipeline import (
    DECODE_MARGIN,
    OPS,
    Op,
    build_augment,
    draw_parameters,
    find_min_side,
    output_size,
)
from launcher.errors import UserError
from launcher.recipe.augment import (
    CenterCrop,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Rotation,
    TrainOp,
    VerticalFlip,
)
from tests.augment.photographs import in_a_block, load_photographs

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TRAIN: tuple[Op, ...] = (
    RandomResizedCrop(op="random_resized_crop", size=256, scale=(0.8, 1.0), ratio=(0.75, 1.33)),
    Rotation(op="rotation", degrees=15.0),
    HorizontalFlip(op="horizontal_flip"),
    CenterCrop(op="center_crop", size=224),
)
EVAL: tuple[Op, ...] = (Resize(op="resize", size=256), CenterCrop(op="center_crop", size=224))
EVERYTHING: tuple[Op, ...] = (
    VerticalFlip(op="vertical_flip", p=0.3),
    Rotation(op="rotation", degrees=40.0),
    Resize(op="resize", size=40),
    RandomCrop(op="random_crop", size=(38, 44), padding=4),
    HorizontalFlip(op="horizontal_flip"),
    RandomResizedCrop(op="random_resized_crop", size=(30, 31)),
    RandomCrop(op="random_crop", size=28),
)
LENET: tuple[Op, ...] = (
    Resize(op="resize", size=(32, 32)),
    Rotation(op="rotation", degrees=10.0),
    RandomCrop(op="random_crop", size=32, padding=2),
)
PHOTOGRAPHS = load_photographs()
BLOCK = in_a_block(PHOTOGRAPHS)
SIZES = BLOCK.sizes_B2
IDS = np.array([3, 1, 4, 15, 9, 26])


def torchvision_train(image: Tensor, box: list[int], angle: float, flip: bool) -> Tensor:
    """Job A's list for one uint8 image and the parameters drawn for it."""
    x = reference.resized_crop(image / 255, *box, size=[256, 256], antialias=True)
    x = reference.rotate(x, angle, InterpolationMode.BILINEAR)
    x = reference.hflip(x) if flip else x
    x = reference.normalize(reference.center_crop(x, [224, 224]), list(MEAN), list(STD))
    assert isinstance(x, Tensor)
    return x


def test_train_list_equals_torchvision() -> None:
    boxes, angles, flips, _ = (step.parameters.tolist() for step in draw_parameters(TRAIN, SIZES, IDS, 1, 2))
    images_BCHW = build_augment(TRAIN, MEAN, STD)(BLOCK, IDS, 1, 2)
    expected_BCHW = torch.stack(list(map(torchvision_train, PHOTOGRAPHS, boxes, angles, flips)))
    assert set(flips) == {True, False}
    levels_BCHW = (images_BCHW - expected_BCHW).abs() * torch.tensor(STD)[:, None, None] * 255
    assert float(levels_BCHW.max()) <= 1.0
    assert float(levels_BCHW.mean()) < 0.3


@pytest.mark.parametrize("photographs", [PHOTOGRAPHS, [image[:, :8, :8] for image in PHOTOGRAPHS], PHOTOGRAPHS[3:4]])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("number", range(4))
def test_bytes_and_floats_give_the_same_images(
    photographs: list[Tensor], interpolation: Interpolation, number: int
) -> None:
    """Float images take the way of a GPU: batch operations only."""
    entries = tuple(
        entry.model_copy(update={"interpolation": interpolation})
        if isinstance(entry, Resize | RandomResizedCrop)
        else entry
        for entry in (TRAIN, EVAL, LENET, EVERYTHING)[number]
    )
    augment, ids = build_augment(entries, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), IDS[: len(photographs)]
    floats_BCHW = augment(in_a_block([image.float() for image in photographs]), ids, 1, 2)
    bytes_BCHW = augment(in_a_block(photographs), ids, 1, 2)
    assert float((bytes_BCHW - floats_BCHW).abs().max()) * 255 <= (1.01 if interpolation == "bilinear" else 1.2)


def test_eval_list_equals_torchvision_and_ignores_the_key() -> None:
    augment = build_augment(EVAL, MEAN, STD)
    images_BCHW = augment(BLOCK, IDS, 0, 0)
    for scale, levels in ((255, 1.0), (1, 0.0)):  # float, then uint8
        levels += 1e-3
        inputs = [image / 255 if scale == 255 else image for image in PHOTOGRAPHS]
        cut = [reference.center_crop(reference.resize(x, [256], antialias=True), [224, 224]) for x in inputs]
        expected_BCHW = reference.normalize(torch.stack(cut) * scale / 255, list(MEAN), list(STD))
        assert float((images_BCHW - expected_BCHW).abs().max()) <= levels / 255 / min(STD)
    assert torch.equal(images_BCHW, augment(BLOCK, IDS + 1, 5, 6))


def test_every_operation_of_the_recipe_has_its_row() -> None:
    classes = get_args(get_args(TrainOp)[0])
    assert {get_args(model.model_fields["op"].annotation)[0] for model in classes} == set(OPS)


def test_everything_on_mixed_sizes_equals_one_image_at_a_time() -> None:
    augment = build_augment(EVERYTHING, MEAN, STD)
    images_BCHW = augment(BLOCK, IDS, 1, 2)
    assert images_BCHW.shape == (6, 3, 28, 28)
    for row, image in enumerate(PHOTOGRAPHS):
        alone_BCHW = augment(in_a_block([image]), IDS[row : row + 1], 1, 2)
        torch.testing.assert_close(alone_BCHW[0], images_BCHW[row], atol=1e-3, rtol=0)


@given(data=st.data())
def test_parameters_do_not_depend_on_the_rest_of_the_batch(data: st.DataObject) -> None:
    ids: INT64 = np.array(data.draw(st.lists(st.integers(0, 2**62), min_size=1, max_size=12, unique=True)))
    side = st.integers(1, 700)
    sizes_B2: INT64 = np.array([data.draw(st.tuples(side, side)) for _ in ids])
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(ids))), min_size=1, max_size=12)))
    seed, epoch = data.draw(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 1000)))
    whole = draw_parameters(EVERYTHING, sizes_B2, ids, seed, epoch)
    part = draw_parameters(EVERYTHING, sizes_B2[rows], ids[rows], seed, epoch)
    for whole_step, part_step in zip(whole, part, strict=True):
        assert np.array_equal(whole_step.parameters[rows], part_step.parameters)
        assert np.array_equal(whole_step.sizes[rows], part_step.sizes)


def test_parameters_never_change() -> None:
    boxes, angles, flips, corners = draw_parameters(TRAIN, SIZES[:2], IDS[:2], 1, 2)
    assert boxes.parameters.tolist() == [[24, 41, 340, 447], [0, 36, 427, 568]]
    assert angles.parameters.tolist() == [8.026241933754253, 8.218247253210894]
    assert flips.parameters.tolist() == [True, False]
    assert corners.parameters.tolist() == [[16, 16]] * 2


@pytest.mark.parametrize(
    ("entries", "size"),
    [
        (TRAIN, (224, 224)),
        (EVAL, (224, 224)),
        (EVERYTHING, (28, 28)),
        (EVAL[:1], None),
        (TRAIN[1:3], None),
        ((), None),
        (
            (Resize(op="resize", size=(20, 30)), Resize(op="resize", size=10), Rotation(op="rotation", degrees=1.0)),
            (10, 15),
        ),
    ],
)
def test_output_size(entries: tuple[Op, ...], size: tuple[int, int] | None) -> None:
    assert output_size(entries) == size


def test_different_sizes_at_the_end_are_the_users_error() -> None:
    with pytest.raises(UserError, match="heights 256 to 341, widths 256 to 710: end the list with a crop"):
        build_augment(EVAL[:1], MEAN, STD)(BLOCK, IDS, 0, 0)


def test_a_list_that_fixes_no_size_takes_images_of_one_size() -> None:
    flip: tuple[Op, ...] = (HorizontalFlip(op="horizontal_flip", p=1.0),)
    images_BCHW = build_augment(flip, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(BLOCK.part(slice(1)), IDS[:1], 0, 0)
    torch.testing.assert_close(images_BCHW[0], PHOTOGRAPHS[0].flip(2) / 255, atol=1e-6, rtol=0)


def test_autocast_does_not_round_the_images() -> None:
    augment = build_augment(EVAL, MEAN, STD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images_BCHW = augment(BLOCK, IDS, 0, 0)
    assert torch.equal(images_BCHW, augment(BLOCK, IDS, 0, 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("entries", [TRAIN, EVAL, EVERYTHING])
def test_a_gpu_gives_the_same_images(entries: tuple[Op, ...]) -> None:
    augment = build_augment(entries, MEAN, STD)
    images_BCHW = augment(BLOCK.to(torch.device("cuda")), IDS, 1, 2)
    assert images_BCHW.is_cuda
    difference_BCHW = (images_BCHW.cpu() - augment(BLOCK, IDS, 1, 2)).abs()
    assert float(difference_BCHW.max()) <= 1.3 / 255 / min(STD)  # a level, and TF32


@pytest.mark.parametrize("photographs", [1, 2, 4, 6])
def test_a_batch_in_pieces_is_the_same(photographs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    augment = build_augment(EVERYTHING, MEAN, STD)
    expected = augment(BLOCK, IDS, 1, 2)
    seen: list[int] = []
    part = PackedImages.part

    def noted(images: PackedImages, numbers: slice) -> PackedImages:
        seen.append(numbers.start)
        return part(images, numbers)

    monkeypatch.setattr(PackedImages, "part", noted)
    monkeypatch.setattr("launcher.augment.pipeline.PIECE_PIXELS", int(SIZES.prod(axis=1).max()) * photographs)
    assert torch.equal(augment(BLOCK, IDS, 1, 2), expected)
    assert seen == list(range(0, 6, photographs))


NEAREST: tuple[Op, ...] = (Rotation(op="rotation", degrees=180.0, interpolation="nearest"),)


@pytest.mark.parametrize("side", [1, 2, 7, 64, 224])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_nearest_rotation_equals_torchvision(side: int, dtype: torch.dtype) -> None:
    """But for pixels that lie halfway between two, which rounding decides."""
    images = [image[:, :side, : side + i].to(dtype) for i, image in enumerate([PHOTOGRAPHS[0]] * 6)]
    flip = HorizontalFlip(op="horizontal_flip", p=1.0)
    crop: tuple[Op, ...] = (*NEAREST, flip, CenterCrop(op="center_crop", size=200))
    block = in_a_block(images)
    turns = draw_parameters(crop, block.sizes_B2, IDS, 1, 2)[0].parameters.tolist()
    found_BCHW = build_augment(crop, (0.0, 0.0, 0.0), (1 / 255,) * 3)(block, IDS, 1, 2)
    turned = [reference.rotate(image.float(), turn) for image, turn in zip(images, turns, strict=True)]
    expected_BCHW = torch.stack([reference.center_crop(x.flip(2), [200, 200]) for x in turned])
    assert float(((found_BCHW - expected_BCHW).abs() > 1e-3).float().mean()) < 2e-4


def test_inference_mode_gives_the_same_images() -> None:
    augment = build_augment(TRAIN, MEAN, STD)
    expected = augment(BLOCK, IDS, 0, 0)
    with torch.inference_mode():
        assert torch.equal(augment(BLOCK, IDS, 0, 0), expected)


@pytest.mark.parametrize(
    ("entry", "side"),
    [
        (Resize(op="resize", size=256), 512),
        (Resize(op="resize", size=(100, 300)), 600),
        (RandomResizedCrop(op="random_resized_crop", size=224), math.ceil(448 / math.sqrt(0.08 * 0.75))),
        (RandomResizedCrop(op="random_resized_crop", size=32, scale=(1.0, 1.0), ratio=(1.0, 1.0)), 64),
        (RandomResizedCrop(op="random_resized_crop", size=32, scale=(0.25, 1.0), ratio=(0.5, 1.5)), 182),
        (CenterCrop(op="center_crop", size=224), None),
    ],
)
def test_so_many_pixels_are_needed(entry: Op, side: int | None) -> None:
    assert find_min_side([entry, HorizontalFlip(op="horizontal_flip")]) == side


def test_all_pixels_are_needed_where_nothing_scales_first() -> None:
    assert find_min_side([]) is None
    assert find_min_side([HorizontalFlip(op="horizontal_flip"), Resize(op="resize", size=9)]) is None


@pytest.mark.parametrize("ratio", [(0.4, 3.0), (3.0, 4.0), (0.2, 0.3)])
def test_every_crop_of_an_image_of_the_needed_side_is_shrunk(ratio: tuple[float, float]) -> None:
    entry = RandomResizedCrop(op="random_resized_crop", size=(20, 30), scale=(0.1, 1.0), ratio=ratio)
    side = find_min_side([entry])
    assert side is not None
    sizes_B2 = np.array([(side, side), (side, 3 * side), (2 * side, side)] * 2000)
    boxes_B4 = draw_parameters([entry], sizes_B2, np.arange(6000), 0, 0)[0].parameters.astype(np.int64)
    assert (boxes_B4[:, 2:] >= DECODE_MARGIN * 30 - 1).all()  # boxes are rounded
    assert boxes_B4[:, 2:].min() < DECODE_MARGIN * 30 * 1.2
