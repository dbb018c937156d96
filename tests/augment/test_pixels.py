"""Operations on images of one size in a list of a recipe: what their parameters and pixels depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torchvision.transforms.v2 import functional as reference

from launcher.augment.execute import build_augment
from launcher.augment.images import packed_images_of
from launcher.augment.ops_table import draw_parameters
from launcher.augment.pixels import PIXEL_OPS
from launcher.recipe.augment import CenterCrop, HorizontalFlip, Resize, TrainOp
from launcher.recipe.augment_pixels import PIXEL_OPS as NAMES
from tests.augment.photographs import in_corners, load_photographs, pack

PHOTOGRAPHS = load_photographs()
CANVAS, SIZES = pack(PHOTOGRAPHS)
IDS = np.array([3, 1, 4, 15, 9, 26])
SCALE: TrainOp = Resize(op="resize", size=(64, 80))

SETTINGS: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 30.0, "translate": (0.1, 0.2), "scale": (0.8, 1.2), "shear": (5.0, 5.0)},
    "color_jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0.1},
    "gamma": {"gamma": (0.5, 2.0)},
    "solarize": {"threshold": 0.5},
    "posterize": {"bits": 3},
    "sharpness": {"factor": 2.0},
    "gaussian_blur": {"kernel_size": 9},
    "grayscale": {"p": 0.5},
    "rand_augment": {"num_ops": 3},
}
"""Settings of operations that have no default, or one that changes little."""

STILL: dict[str, dict[str, Any]] = {
    "affine": {"degrees": 0.0},
    "color_jitter": {},
    "gamma": {"gamma": (1.0, 1.0)},
    "sharpness": {"factor": 1.0, "p": 1.0},
    "gaussian_blur": {"kernel_size": 1},
    "gaussian_noise": {"sigma": 1e-12},
}
"""Settings that change nothing."""


def op_of(name: str, settings: dict[str, Any]) -> TrainOp:
    op: TrainOp = TypeAdapter(TrainOp).validate_python({"op": name, **settings})
    return op


ALL_OPS = {name: op_of(name, SETTINGS.get(name, {})) for name in PIXEL_OPS}


def augmented(
    *ops: TrainOp, canvas_BCHW: Tensor = CANVAS, rows: slice | list[int] = slice(None), epoch: int = 2
) -> Tensor:
    """Levels of 255, not normalized."""
    augment = build_augment(ops, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return augment(in_corners(canvas_BCHW[rows], SIZES[rows]), IDS[rows], 1, epoch) * 255


def test_every_pixel_operation_of_the_recipe_has_a_row() -> None:
    assert set(PIXEL_OPS) == set(NAMES)


@pytest.mark.parametrize("name", PIXEL_OPS)
def test_an_image_alone_equals_the_image_in_its_batch(name: str) -> None:
    """Pixels within rounding; a sum over an image may be taken in another order."""
    whole_BCHW = augmented(SCALE, ALL_OPS[name])
    for rows in ([0], [1], [5, 2], [3, 4, 0]):
        part_BCHW = augmented(SCALE, ALL_OPS[name], rows=rows)
        torch.testing.assert_close(part_BCHW, whole_BCHW[rows], atol=1e-3, rtol=0)


@pytest.mark.parametrize("name", PIXEL_OPS)
def test_parameters_depend_on_the_key_and_not_on_the_batch(name: str) -> None:
    ids_B, sizes_B2 = np.arange(64), np.tile([[64, 80]], (64, 1))
    [whole] = draw_parameters((ALL_OPS[name],), sizes_B2, ids_B, 1, 2)
    [part] = draw_parameters((ALL_OPS[name],), sizes_B2[5:9], ids_B[5:9], 1, 2)
    assert np.array_equal(whole.parameters[5:9], part.parameters)
    for seed, epoch, first in ((2, 2, 0), (1, 3, 0), (1, 2, 64)):
        [other] = draw_parameters((ALL_OPS[name],), sizes_B2, ids_B + first, seed, epoch)
        assert not np.array_equal(whole.parameters, other.parameters)
    _, later = draw_parameters((SCALE, ALL_OPS[name]), sizes_B2, ids_B, 1, 2)
    assert not np.array_equal(whole.parameters, later.parameters)


@pytest.mark.parametrize("name", PIXEL_OPS)
def test_images_change_stay_in_range_and_keep_their_size(name: str) -> None:
    before_BCHW, after_BCHW = augmented(SCALE), augmented(SCALE, ALL_OPS[name])
    assert after_BCHW.shape == before_BCHW.shape
    assert -1e-3 <= float(after_BCHW.min()) <= float(after_BCHW.max()) <= 255.001
    assert float((after_BCHW - before_BCHW).abs().max()) > 1


@pytest.mark.parametrize("name", STILL)
def test_neutral_settings_change_nothing(name: str) -> None:
    difference_BCHW = augmented(SCALE, op_of(name, STILL[name])) - augmented(SCALE)
    assert float(difference_BCHW.abs().max()) <= 1e-4


@pytest.mark.parametrize("name", ["solarize", "posterize", "equalize", "perspective", "random_erasing", "grayscale"])
def test_images_that_are_not_chosen_keep_every_pixel(name: str) -> None:
    op = op_of(name, {**SETTINGS.get(name, {}), "p": 1e-9})
    assert torch.equal(augmented(SCALE, op), augmented(SCALE))


def test_crops_and_flips_after_a_pixel_operation_are_applied() -> None:
    flip, cut = HorizontalFlip(op="horizontal_flip", p=1.0), CenterCrop(op="center_crop", size=(50, 90))
    whole_BCHW = augmented(SCALE, ALL_OPS["equalize"])
    expected_BCHW = reference.center_crop(whole_BCHW.flip(3), [50, 90])
    torch.testing.assert_close(augmented(SCALE, ALL_OPS["equalize"], flip, cut), expected_BCHW, atol=1e-4, rtol=0)


def test_a_float_canvas_is_not_written_to() -> None:
    canvas_BCHW = CANVAS[:, :, :48, :48].float()
    before_BCHW, block = canvas_BCHW.clone(), packed_images_of(canvas_BCHW)
    for op in ALL_OPS.values():
        build_augment((op, SCALE), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))(block, IDS, 1, 2)
        assert torch.equal(block.canvas(), before_BCHW)


def test_parameters_never_change() -> None:
    first = {
        name: draw_parameters((op,), SIZES[:1], IDS[:1], 1, 2)[0].parameters.ravel()[0]
        for name, op in ALL_OPS.items()
        if name in ("affine", "color_jitter", "gamma", "gaussian_noise", "trivial_augment")
    }
    assert first == {
        "affine": 1.0702337852611588,
        "color_jitter": 1.3611721324501223,
        "gamma": 1.9271977483439793,
        "gaussian_noise": 8570036330167941.0,
        "trivial_augment": 13.0,
    }


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", PIXEL_OPS)
def test_a_gpu_gives_the_same_images(name: str) -> None:
    """From whole levels, which some operations round to: a resize before would differ by up to one."""
    crop: TrainOp = CenterCrop(op="center_crop", size=(48, 48))
    canvas_BCHW = augmented(crop, ALL_OPS[name], canvas_BCHW=CANVAS.cuda())
    assert canvas_BCHW.is_cuda
    difference_BCHW = (canvas_BCHW.cpu() - augmented(crop, ALL_OPS[name])).abs()
    assert float(difference_BCHW.mean()) <= 1e-3
