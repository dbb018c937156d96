"""`synthetic:KxN` or `synthetic:KxNxSIDE`: K classes of N seeded JPEG images that a tiny network can tell apart."""

from __future__ import annotations

import colorsys
import io
import re
from functools import partial

import numpy as np
from PIL import Image

from shards.manifest import ShardsError
from shards.sources.listing import UNDIVIDED, Item, Listing, PackOptions, make_key

PATTERN = re.compile(r"([1-9]\d*)x([1-9]\d*)(?:x([1-9]\d*))?")


def check_argument(argument: str) -> None:
    if not PATTERN.fullmatch(argument):
        raise ShardsError(f"synthetic:{argument} must be synthetic:CLASSESxIMAGES or synthetic:CLASSESxIMAGESxSIDE")


def list_images(argument: str, options: PackOptions) -> Listing:
    """Not split. Classes are `class_0` ... unless `options.classes` has exactly K names."""
    match = PATTERN.fullmatch(argument)
    assert match is not None
    num_classes, num_each = int(match[1]), int(match[2])
    side = int(match[3]) if match[3] else None
    names = options.classes or tuple(f"class_{k:0{len(str(num_classes - 1))}d}" for k in range(num_classes))
    if len(names) != num_classes:
        raise ShardsError(f"synthetic:{argument} has {num_classes} classes, but {len(names)} names are given")
    items = [
        Item(
            make_key(names[label], "", label * num_each + i),
            "jpg",
            label,
            partial(draw_jpeg, label, num_classes, i, options.seed, side),
        )
        for label in range(num_classes)
        for i in range(num_each)
    ]
    return Listing(names, {UNDIVIDED: items})


def draw_jpeg(label: int, num_classes: int, number: int, seed: int, side: int | None) -> bytes:
    """Smooth and grainy noise under one disc, square or diamond; color and shape follow the class.

    `side`: pixels of a square image; None: about 320x256, each side varying by an eighth.
    """
    rng = np.random.default_rng([seed, label, number])
    width, height = (side, side) if side else (int(rng.integers(280, 361)), int(rng.integers(224, 289)))
    coarse = Image.fromarray(rng.integers(60, 196, (6, 6, 3), dtype=np.uint8))
    canvas_HWC = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(np.float32)
    colour = np.array(colorsys.hsv_to_rgb(label / num_classes, 0.9, 0.9), dtype=np.float32) * 255
    radius = min(width, height) * rng.uniform(0.2, 0.4)
    centre_x, centre_y = width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7)
    distance_x = np.abs(np.arange(width) - centre_x)[None, :]
    distance_y = np.abs(np.arange(height) - centre_y)[:, None]
    distances = (np.hypot(distance_x, distance_y), np.maximum(distance_x, distance_y), distance_x + distance_y)
    canvas_HWC[distances[label % 3] < radius] = colour
    canvas_HWC += rng.normal(0, 12, (height, width, 1)).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(canvas_HWC.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()
