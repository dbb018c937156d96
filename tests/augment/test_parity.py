"""Pixels against torchvision's, and `parity.md`, the committed table of differences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import RandAugment, TrivialAugmentWide
from torchvision.transforms.v2 import functional as reference

from launcher.augment import color
from launcher.augment.draw_policy import rand_magnitudes, trivial_magnitudes
from launcher.recipe.augment import (
    CenterCrop,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Resize,
    Rotation,
    VerticalFlip,
)
from launcher.recipe.augment_pixels import ColorJitter
from tests.augment.parity import (
    HEIGHT,
    WIDTH,
    Pair,
    affine,
    blurred,
    erased,
    in_bytes,
    in_floats,
    jittered,
    padded_crop,
    perspective,
    policy,
    resized,
    through_recipe,
)

TABLE = Path(__file__).parent / "parity.md"


@dataclass(frozen=True)
class Row:
    """One line of the table: allowed differences of an operation from torchvision's, in levels of 255."""

    name: str
    against: str
    """Type of torchvision's images: float32, or uint8, which rounds."""
    max: float
    mean: float
    pairs: Callable[[], Iterator[Pair]]


FACTORS = [0.0, 0.1, 0.5, 0.9, 1.0, 1.1, 1.7, 3.0]
JITTER = ColorJitter(op="color_jitter", brightness=0.8, contrast=0.8, saturation=0.8, hue=0.5)
SIZES = np.array([[HEIGHT, WIDTH]], dtype=np.int64)
HUE_SHIFTS = [-0.5, -0.31, -0.1, 0.0, 0.02, 0.2, 1 / 3, 0.5]
EXACT, CLOSE = (1e-4, 1e-5), (0.01, 0.001)
"""Largest and mean difference: that of dividing and multiplying by 255, and that of float32 in another order."""
WHOLE_PIXELS = 255.0
"""Of two equally near pixels either is right: a few differ, by any number of levels."""

CUT = RandomResizedCrop(op="random_resized_crop", size=(224, 200))
SCALE = Resize(op="resize", size=(224, 200))
BICUBIC = {"interpolation": "bicubic"}

ROWS = (
    Row("resize", "float32", 1.0, 0.3, lambda: through_recipe(SCALE, partial(resized, "bilinear"))),
    Row(
        *("resize, bicubic", "uint8", *EXACT),
        lambda: through_recipe(SCALE.model_copy(update=BICUBIC), partial(resized, "bicubic"), in_bytes=True),
    ),
    Row(
        *("random_resized_crop", "float32", 1.01, 0.3),
        lambda: through_recipe(CUT, partial(resized, "bilinear")),
    ),
    Row(
        *("random_resized_crop, bicubic", "uint8", *EXACT),
        lambda: through_recipe(CUT.model_copy(update=BICUBIC), partial(resized, "bicubic"), in_bytes=True),
    ),
    Row(
        *("center_crop", "float32", *EXACT),
        lambda: through_recipe(
            CenterCrop(op="center_crop", size=(301, 700)),
            lambda image, row: reference.center_crop(image, [301, 700]),
        ),
    ),
    Row(
        *("random_crop", "float32", *EXACT),
        lambda: through_recipe(RandomCrop(op="random_crop", size=(400, 640), padding=30), padded_crop),
    ),
    Row(
        *("horizontal_flip", "float32", *EXACT),
        lambda: through_recipe(
            HorizontalFlip(op="horizontal_flip"),
            lambda image, row: reference.hflip(image) if row[0] else image,
        ),
    ),
    Row(
        *("vertical_flip", "float32", *EXACT),
        lambda: through_recipe(
            VerticalFlip(op="vertical_flip"),
            lambda image, row: reference.vflip(image) if row[0] else image,
        ),
    ),
    Row(
        *("rotation", "float32", 0.1, 0.01),
        lambda: through_recipe(
            Rotation(op="rotation", degrees=180.0),
            lambda image, row: reference.rotate(image, row[0], InterpolationMode.BILINEAR),
        ),
    ),
    Row("affine", "float32", 0.1, 0.01, lambda: affine("bilinear")),
    Row("affine, nearest", "float32", WHOLE_PIXELS, 0.002, lambda: affine("nearest")),
    Row("perspective", "float32", 0.1, 0.01, lambda: perspective("bilinear")),
    Row("perspective, nearest", "float32", WHOLE_PIXELS, 0.002, lambda: perspective("nearest")),
    Row("color_jitter", "float32", *CLOSE, lambda: through_recipe(JITTER, jittered)),
    Row("brightness", "float32", *CLOSE, in_floats(color.adjust_brightness, reference.adjust_brightness, FACTORS)),
    Row("contrast", "float32", *CLOSE, in_floats(color.adjust_contrast, reference.adjust_contrast, FACTORS)),
    Row("saturation", "float32", *CLOSE, in_floats(color.adjust_saturation, reference.adjust_saturation, FACTORS)),
    Row("hue", "float32", *CLOSE, in_floats(color.adjust_hue, reference.adjust_hue, HUE_SHIFTS)),
    Row("gamma", "float32", *CLOSE, in_floats(color.adjust_gamma, reference.adjust_gamma, FACTORS)),
    Row("sharpness", "float32", *CLOSE, in_floats(color.adjust_sharpness, reference.adjust_sharpness, FACTORS)),
    Row(
        *("grayscale", "float32", *CLOSE),
        in_floats(
            lambda images, _: color.grayscale(images), lambda image, _: reference.rgb_to_grayscale(image, 3), [0.0]
        ),
    ),
    Row(
        *("autocontrast", "float32", *CLOSE),
        in_floats(lambda images, _: color.autocontrast(images), lambda image, _: reference.autocontrast(image), [0.0]),
    ),
    Row(
        *("equalize", "uint8", *EXACT),
        in_bytes(lambda images, _: color.equalize(images), lambda image, _: reference.equalize(image), [0.0]),
    ),
    Row(
        "solarize",
        "uint8",
        *EXACT,
        in_bytes(color.solarize, reference.solarize, [0.0, 1.0, 100.5, 128.0, 254.9, 255.0]),
    ),
    Row(
        *("posterize", "uint8", *EXACT),
        in_bytes(color.posterize, lambda image, bits: reference.posterize(image, int(bits)), range(9)),
    ),
    Row("gaussian_blur", "float32", *CLOSE, blurred),
    Row("random_erasing", "float32", *EXACT, erased),
    Row("rand_augment", "uint8", 2.0, 0.3, partial(policy, RandAugment(), rand_magnitudes(SIZES), "bilinear")),
    Row(
        *("rand_augment, nearest", "uint8", WHOLE_PIXELS, 0.3),
        partial(policy, RandAugment(), rand_magnitudes(SIZES), "nearest"),
    ),
    Row(
        *("trivial_augment", "uint8", 2.0, 0.3),
        partial(policy, TrivialAugmentWide(), trivial_magnitudes(SIZES), "bilinear"),
    ),
    Row(
        *("trivial_augment, nearest", "uint8", WHOLE_PIXELS, 0.3),
        partial(policy, TrivialAugmentWide(), trivial_magnitudes(SIZES), "nearest"),
    ),
)
"""gaussian_noise has no parameter that could be the same: its numbers are keyed. See `test_blur`."""


def measure(row: Row) -> tuple[float, float]:
    """Largest and mean difference over all pairs, in levels of 255."""
    differences = [(ours - theirs).abs() for ours, theirs in row.pairs()]
    return (
        max(float(each.max()) for each in differences),
        float(torch.cat([each.flatten() for each in differences]).mean()),
    )


def render(measured: dict[str, tuple[float, float]]) -> str:
    """The table in Markdown."""
    lines = [
        f"| {row.name} | {row.against} | {measured[row.name][0]:.4f} | {measured[row.name][1]:.5f} |" for row in ROWS
    ]
    head = "| operation | torchvision in | largest difference | mean difference |\n|---|---|---|---|"
    return "\n".join([head, *lines]) + "\n"


def read(table: str) -> dict[str, tuple[float, float]]:
    """Differences of each row of such a table."""
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    return {name: (float(largest), float(mean)) for name, _, largest, mean in cells}


SLACK = (0.005, 0.0005)
"""Allowed growth of the committed differences, in levels of 255: another CPU may round otherwise."""

MEASURED: dict[str, tuple[float, float]] = {}


@pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])
def test_pixels_equal_torchvisions(row: Row) -> None:
    largest, mean = MEASURED[row.name] = measure(row)
    assert largest <= row.max
    assert mean <= row.mean


def has_grown(row: Row, measured: tuple[float, float], committed: dict[str, tuple[float, float]]) -> bool:
    largest, mean = (new - old > slack for new, old, slack in zip(measured, committed[row.name], SLACK, strict=True))
    return mean or (largest and row.max < WHOLE_PIXELS)


def test_no_difference_is_larger_than_the_committed_one() -> None:
    """Takes the measurements of the test above where it ran in the same process."""
    measured = {row.name: MEASURED.get(row.name) or measure(row) for row in ROWS}
    committed = read(TABLE.read_text())
    assert committed.keys() == measured.keys()
    grown = [row.name for row in ROWS if has_grown(row, measured[row.name], committed)]
    assert not grown, f"{grown} have grown; if that is intended, replace {TABLE.name} by\n{render(measured)}"
