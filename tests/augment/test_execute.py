"""Whole lists of a recipe: their pixels against torchvision's, on each road through the executor."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as reference

from launcher.augment import execute
from launcher.augment.execute import build_augment
from launcher.augment.images import PackedImages
from launcher.augment.ops import Interpolation
from launcher.augment.ops_table import draw_parameters
from launcher.errors import UserError
from launcher.recipe.augment import CenterCrop, HorizontalFlip, RandomResizedCrop, Resize, Rotation, TrainOp
from tests.augment.op_lists import EVAL, EVERYTHING, LENET, TRAIN
from tests.augment.photographs import in_a_block, load_photographs

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
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
    boxes, angles, flips, _ = (op.parameters.tolist() for op in draw_parameters(TRAIN, SIZES, IDS, 1, 2))
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
    """Float images take the road of a GPU: batch operations only."""
    ops = tuple(
        op.model_copy(update={"interpolation": interpolation}) if isinstance(op, Resize | RandomResizedCrop) else op
        for op in (TRAIN, EVAL, LENET, EVERYTHING)[number]
    )
    augment, ids = build_augment(ops, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), IDS[: len(photographs)]
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


def test_a_batch_of_mixed_sizes_equals_one_image_at_a_time() -> None:
    augment = build_augment(EVERYTHING, MEAN, STD)
    images_BCHW = augment(BLOCK, IDS, 1, 2)
    assert images_BCHW.shape == (6, 3, 28, 28)
    for row, image in enumerate(PHOTOGRAPHS):
        alone_BCHW = augment(in_a_block([image]), IDS[row : row + 1], 1, 2)
        torch.testing.assert_close(alone_BCHW[0], images_BCHW[row], atol=1e-3, rtol=0)


def test_different_sizes_at_the_end_raise_user_error() -> None:
    with pytest.raises(UserError, match="heights 256 to 341, widths 256 to 710: end the list with a crop"):
        build_augment(EVAL[:1], MEAN, STD)(BLOCK, IDS, 0, 0)


def test_a_list_that_fixes_no_size_accepts_images_of_one_size() -> None:
    flip: tuple[TrainOp, ...] = (HorizontalFlip(op="horizontal_flip", p=1.0),)
    images_BCHW = build_augment(flip, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(BLOCK.part(slice(1)), IDS[:1], 0, 0)
    torch.testing.assert_close(images_BCHW[0], PHOTOGRAPHS[0].flip(2) / 255, atol=1e-6, rtol=0)


def test_autocast_does_not_round_the_images() -> None:
    augment = build_augment(EVAL, MEAN, STD)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        images_BCHW = augment(BLOCK, IDS, 0, 0)
    assert torch.equal(images_BCHW, augment(BLOCK, IDS, 0, 0))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("ops", [TRAIN, EVAL, EVERYTHING])
def test_a_gpu_gives_the_same_images(ops: tuple[TrainOp, ...]) -> None:
    augment = build_augment(ops, MEAN, STD)
    images_BCHW = augment(BLOCK.to(torch.device("cuda")), IDS, 1, 2)
    assert images_BCHW.is_cuda
    difference_BCHW = (images_BCHW.cpu() - augment(BLOCK, IDS, 1, 2)).abs()
    assert float(difference_BCHW.max()) <= 1.3 / 255 / min(STD)  # a level, and TF32


@pytest.mark.parametrize("photographs", [1, 2, 4, 6])
def test_a_batch_in_pieces_gives_the_same_images(photographs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    augment = build_augment(EVERYTHING, MEAN, STD)
    expected = augment(BLOCK, IDS, 1, 2)
    starts: list[int] = []
    part = PackedImages.part

    def recorded(images: PackedImages, numbers: slice) -> PackedImages:
        starts.append(numbers.start)
        return part(images, numbers)

    monkeypatch.setattr(PackedImages, "part", recorded)
    monkeypatch.setattr(execute, "PIECE_PIXELS", int(SIZES.prod(axis=1).max()) * photographs)
    assert torch.equal(augment(BLOCK, IDS, 1, 2), expected)
    assert starts == list(range(0, 6, photographs))


NEAREST: tuple[TrainOp, ...] = (Rotation(op="rotation", degrees=180.0, interpolation="nearest"),)


@pytest.mark.parametrize("side", [1, 2, 7, 64, 224])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_nearest_rotation_equals_torchvision(side: int, dtype: torch.dtype) -> None:
    """Except for pixels halfway between two, which rounding decides."""
    images = [image[:, :side, : side + i].to(dtype) for i, image in enumerate([PHOTOGRAPHS[0]] * 6)]
    flip = HorizontalFlip(op="horizontal_flip", p=1.0)
    crop: tuple[TrainOp, ...] = (*NEAREST, flip, CenterCrop(op="center_crop", size=200))
    block = in_a_block(images)
    angles = draw_parameters(crop, block.sizes_B2, IDS, 1, 2)[0].parameters.tolist()
    found_BCHW = build_augment(crop, (0.0, 0.0, 0.0), (1 / 255,) * 3)(block, IDS, 1, 2)
    rotated = [reference.rotate(image.float(), angle) for image, angle in zip(images, angles, strict=True)]
    expected_BCHW = torch.stack([reference.center_crop(x.flip(2), [200, 200]) for x in rotated])
    assert float(((found_BCHW - expected_BCHW).abs() > 1e-3).float().mean()) < 2e-4


def test_inference_mode_gives_the_same_images() -> None:
    augment = build_augment(TRAIN, MEAN, STD)
    expected = augment(BLOCK, IDS, 0, 0)
    with torch.inference_mode():
        assert torch.equal(augment(BLOCK, IDS, 0, 0), expected)
