"""Operations on images of one size: wrong ones as overrides, and the one line a user sees."""

from __future__ import annotations

import typing
from pathlib import Path

import pytest

from launcher.recipe.augment import TrainOp
from launcher.recipe.augment_pixels import PIXEL_OPS, PixelOp
from tests.recipe.right import errors_of, write

WRONG = [
    ("op: gaussian_blur, kernel_size: 4", ".kernel_size: must be odd, not 4; try 5"),
    ("op: gaussian_blur, kernel_size: 65", ".kernel_size: 65 is too wide for images of 32 x 32; at most 63"),
    ("op: gaussian_blur, kernel_size: 3, sigma: [2.0, 1.0]", ".sigma: smallest 2 is above largest 1"),
    ("op: gamma, gamma: [1.5, 0.5]", ".gamma: smallest 1.5 is above largest 0.5"),
    ("op: affine, degrees: 1, scale: [2.0, 1.0]", ".scale: smallest 2 is above largest 1"),
    ("op: random_erasing, ratio: [3.0, 0.5]", ".ratio: smallest 3 is above largest 0.5"),
    ("op: random_erasing, scale: [0.5, 1.5]", ".scale.1: must be at most 1, not 1.5"),
    ("op: color_jitter", ": has no effect: give brightness, contrast, saturation or hue"),
    ("op: color_jitter, hue: 0.6", ".hue: must be at most 0.5, not 0.6"),
    ("op: posterize, bits: 8", ".bits: must be at most 7, not 8"),
    ("op: rand_augment, magnitude: 31", ".magnitude: must be at most 30, not 31"),
]


@pytest.mark.parametrize(("op", "message"), WRONG)
def test_wrong_operation_gets_one_line(op: str, message: str, tmp_path: Path) -> None:
    found = errors_of(write(tmp_path), (f"augment.train.1={{{op}}}",))
    assert found == [f"command line: augment.train.1{message}"]


@pytest.mark.parametrize("before", ["{op: horizontal_flip}", "{op: resize, size: 32}"])
def test_operation_needs_images_of_one_size(before: str, tmp_path: Path) -> None:
    ops = f"augment.train=[{before}, {{op: equalize}}, {{op: resize, size: [32, 32]}}]"
    what = "equalize needs images of one size; put it after a crop, or a resize to [height, width]"
    assert errors_of(write(tmp_path), (ops,)) == [f"command line: augment.train.1: {what}"]


@pytest.mark.parametrize(
    "op",
    [
        "op: affine, degrees: 10, translate: [0.1, 0.2], scale: [0.8, 1.2], shear: [5, 0], interpolation: nearest",
        "op: random_erasing, value: [0.5, 0.4, 0.3]",
        "op: random_erasing, value: 0.5",
        "op: gaussian_blur, kernel_size: 63, sigma: [0.1, 0.1]",
        "op: color_jitter, brightness: 0.4, hue: 0.5",
        "op: trivial_augment",
    ],
)
def test_right_operation_has_no_errors(op: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path), (f"augment.train.1={{{op}}}",)) == []


def test_eval_refuses_the_operations(tmp_path: Path) -> None:
    what = "equalize is random, for augment.train only; valid: center_crop, resize"
    found = errors_of(write(tmp_path), ("augment.eval=[{op: equalize}]",))
    assert f"command line: augment.eval.0.op: {what}" in found


def test_every_operation_is_named() -> None:
    sections = typing.get_args(PixelOp)
    assert {typing.get_args(section.model_fields["op"].annotation)[0] for section in sections} == set(PIXEL_OPS)
    assert set(sections) <= set(typing.get_args(typing.get_args(TrainOp)[0]))
