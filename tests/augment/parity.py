"""Every operation beside torchvision's, for many parameters, on two photographs.

Each function yields pairs of results; `test_parity` has the table of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from sklearn.datasets import load_sample_image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import v2 as transforms
from torchvision.transforms.v2 import functional as reference

from launcher.augment import blur, draw_color, draw_warp
from launcher.augment.arrays import FLOAT64, INT64
from launcher.augment.draw_policy import OPERATIONS, SIGNED
from launcher.augment.execute import build_augment
from launcher.augment.ops_table import draw_parameters
from launcher.augment.pixels import WarpMode, apply_policy, warp
from launcher.recipe.augment import TrainOp
from launcher.recipe.augment_pixels import GaussianBlur, Perspective
from tests.augment.photographs import in_corners

Pair = tuple[Tensor, Tensor]
"""Ours and torchvision's, on the scale [0, 255]."""

PHOTOGRAPHS = torch.stack([torch.tensor(load_sample_image(name)) for name in ("china.jpg", "flower.jpg")])
WHOLE_BCHW = PHOTOGRAPHS.permute(0, 3, 1, 2).contiguous()
IMAGES_BCHW = WHOLE_BCHW[:, :, ::2, ::2].contiguous()
HEIGHT, WIDTH = IMAGES_BCHW.shape[2:]
MODES: dict[WarpMode, InterpolationMode] = {
    "nearest": InterpolationMode.NEAREST,
    "bilinear": InterpolationMode.BILINEAR,
}


def _each(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor], values: Sequence[float]
) -> Iterator[Pair]:
    """Each value as one parameter for both photographs, all in one batch, against one image at a time."""
    batch_BCHW, values_B = IMAGES_BCHW.repeat(len(values), 1, 1, 1), np.repeat(values, 2)
    expected = [theirs(image, value) for image, value in zip(batch_BCHW, values_B.tolist(), strict=True)]
    yield ours(batch_BCHW.float(), torch.tensor(values_B, dtype=torch.float32)), torch.stack(expected).float()


def in_floats(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor], values: Sequence[float]
) -> Callable[[], Iterator[Pair]]:
    return lambda: _each(ours, lambda image, value: theirs(image / 255, value) * 255, values)


def in_bytes(
    ours: Callable[[Tensor, Tensor], Tensor], theirs: Callable[[Tensor, float], Tensor], values: Sequence[float]
) -> Callable[[], Iterator[Pair]]:
    return lambda: _each(ours, theirs, values)


def affine(mode: WarpMode) -> Iterator[Pair]:
    chance = np.random.default_rng(1)
    num = 16
    angles, scales = chance.uniform(-180, 180, num), chance.uniform(0.5, 2, num)
    moves, shears = chance.integers(-60, 60, (num, 2)).astype(float), chance.uniform(-40, 40, (num, 2))
    centers = np.tile([WIDTH / 2, HEIGHT / 2], (num, 1))
    coefficients = draw_warp.affine_coefficients(angles, moves, scales, shears, centers)
    values = zip(angles.tolist(), moves.tolist(), scales.tolist(), shears.tolist(), strict=True)
    for image, row, (angle, move, scale, shear) in zip(
        IMAGES_BCHW.repeat(8, 1, 1, 1), coefficients, values, strict=True
    ):
        expected = reference.affine(image / 255, angle, move, scale, shear, MODES[mode])
        yield warp(image[None].float(), row[None], mode)[0], expected * 255


def perspective(mode: WarpMode) -> Iterator[Pair]:
    op, random = Perspective(op="perspective", distortion_scale=0.6, p=1.0), np.random.default_rng(2).random
    coefficients = draw_warp.perspective(op, lambda num: random((16, num)), np.tile([[HEIGHT, WIDTH]], (16, 1)))
    batch_BCHW = IMAGES_BCHW.repeat(8, 1, 1, 1)
    ours_BCHW = warp(batch_BCHW.float(), coefficients, mode)
    for image, ours, row in zip(batch_BCHW, ours_BCHW, coefficients.tolist(), strict=True):
        expected = reference.perspective(image / 255, None, None, MODES[mode], coefficients=row)
        yield ours, expected * 255


def blurred() -> Iterator[Pair]:
    sigmas = [0.1, 0.5, 1.0, 2.0, 3.3, 10.0]
    uniforms_B1 = np.repeat((np.array(sigmas) - 0.1) / 9.9, 2)[:, None]
    batch_BCHW = IMAGES_BCHW.repeat(len(sigmas), 1, 1, 1)
    sizes_B2 = np.tile([[HEIGHT, WIDTH]], (len(batch_BCHW), 1))
    for kernel_size in (1, 3, 9, 23):
        op = GaussianBlur(op="gaussian_blur", kernel_size=kernel_size, sigma=(0.1, 10.0))
        kernels = draw_color.gaussian_blur(op, lambda num: uniforms_B1, sizes_B2)
        ours_BCHW = blur.gaussian_blur(batch_BCHW.float(), torch.tensor(kernels, dtype=torch.float32))
        for image, ours, sigma in zip(batch_BCHW, ours_BCHW, np.repeat(sigmas, 2).tolist(), strict=True):
            yield ours, reference.gaussian_blur(image / 255, [kernel_size] * 2, [sigma] * 2) * 255


def erased() -> Iterator[Pair]:
    boxes = [(0, 0, 50, 60), (20, 30, 1, 1), (100, 200, HEIGHT - 100, WIDTH - 200), (7, 7, 0, 0)]
    for top, left, height, width in boxes:
        batch_BCHW, value = IMAGES_BCHW.float(), torch.tensor([10.0, 0.0, 200.0])
        box_B4 = torch.tensor([[top, left, height, width]] * 2)
        expected = reference.erase(batch_BCHW, top, left, height, width, value[:, None, None])
        yield blur.erase(batch_BCHW, box_B4, value.expand(2, 3)), expected


def policy(
    theirs: transforms.RandAugment | transforms.TrivialAugmentWide, tables_BOn: FLOAT64, mode: WarpMode
) -> Iterator[Pair]:
    """Every operation at every third magnitude, both signs."""
    for choice, (name, their_name) in enumerate(zip(OPERATIONS, theirs._AUGMENTATION_SPACE, strict=True)):
        table = sorted(set(tables_BOn[0, choice, ::3].tolist()))
        values = np.array([sign * value for value in table for sign in ((1, -1) if name in SIGNED else (1,))])
        batch_BCHW = IMAGES_BCHW[choice % 2].repeat(len(values), 1, 1, 1)
        choices_BM: INT64 = np.full((len(values), 1), choice)
        ours_BCHW = apply_policy(batch_BCHW.float(), choices_BM, values[:, None], mode)
        for image, ours, value in zip(batch_BCHW, ours_BCHW, values.tolist(), strict=True):
            fill = {torch.Tensor: None}
            expected = theirs._apply_image_or_video_transform(image, their_name, value, MODES[mode], fill)
            yield ours, expected.float()


def through_recipe(
    op: TrainOp, theirs: Callable[[Tensor, list[float]], Tensor], in_bytes: bool = False, num: int = 6
) -> Iterator[Pair]:
    """A list of one operation as a training does it, against the parameters drawn for it."""
    canvas_BCHW, ids_B = WHOLE_BCHW.repeat(num, 1, 1, 1), np.arange(2 * num)
    sizes_B2 = np.tile(np.array([canvas_BCHW.shape[2:]], dtype=np.int64), (2 * num, 1))
    ours_BCHW = build_augment((op,), (0.0,) * 3, (1.0,) * 3)(in_corners(canvas_BCHW, sizes_B2), ids_B, 5, 6) * 255
    [drawn] = draw_parameters((op,), sizes_B2, ids_B, 5, 6)
    rows = drawn.parameters.reshape(2 * num, -1).tolist()
    for image, ours, row in zip(canvas_BCHW if in_bytes else canvas_BCHW / 255, ours_BCHW, rows, strict=True):
        yield ours, theirs(image, row) * (1 if in_bytes else 255)


def resized(mode: str, image: Tensor, box: list[float]) -> Tensor:
    box_and_size = (*map(int, box), [224, 200])
    cut: Tensor = reference.resized_crop(image, *box_and_size, InterpolationMode(mode), antialias=True)
    return cut


def jittered(image: Tensor, row: list[float]) -> Tensor:
    adjust = (
        reference.adjust_brightness,
        reference.adjust_contrast,
        reference.adjust_saturation,
        reference.adjust_hue,
    )
    for which in map(int, row[4:]):
        image = adjust[which](image, row[which])
    return image


def padded_crop(image: Tensor, offset: list[float]) -> Tensor:
    top, left = (int(each) + 30 for each in offset)
    cut: Tensor = reference.crop(reference.pad(image, [30]), top, left, 400, 640)
    return cut
