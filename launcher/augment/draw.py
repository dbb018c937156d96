"""Crops, angles and flips: parameters of a batch as functions of uniform numbers and image sizes.

Pure NumPy on the CPU, so that a run on a GPU and its check on a CPU use the same parameters bit for bit, and
dozens of kernels on a few hundred numbers stay off the device. A uniform number depends on (seed, view, sample id,
position of the operation in its list, index) and on nothing else: not on the batch, its order, or the other operations.
Functions named after an operation take it as the recipe has it, and the sizes of the images before it.

Shapes: B images; N uniform numbers in [0, 1) per image, or T pairs of them; B2 (height, width) or (top, left) in
pixels; B4 (top, left, height, width) in pixels. All integers are int64.
"""

from __future__ import annotations

import numpy as np

from launcher import keyed_random
from launcher.augment.arrays import BOOL, FLOAT64, INT64, Uniforms
from launcher.augment.sizes import exact_size
from launcher.errors import DataError
from launcher.recipe.augment import HorizontalFlip, RandomCrop, RandomResizedCrop, Rotation, VerticalFlip


def draw_uniforms(seed: int, view: int, ids_B: INT64, position: int, num: int) -> FLOAT64:
    """`num` numbers per sample for the operation at `position` of its list: uniforms_BN."""
    return keyed_random.uniform(seed, view, ids_B[:, None], position, np.arange(num))


def whole_boxes(sizes_B2: INT64) -> INT64:
    """The box around each whole image: boxes_B4."""
    return np.concatenate([np.zeros_like(sizes_B2), sizes_B2], axis=1)


def center_offsets(sizes_B2: INT64, size: tuple[int, int]) -> INT64:
    """Corners of the center crop, offsets_B2, negative where the image is smaller; odd pixels as in torchvision."""
    room_B2: INT64 = sizes_B2 - np.array(size, dtype=np.int64)
    return np.where(room_B2 < 0, -(-room_B2 // 2), np.round(room_B2 / 2).astype(np.int64))


def random_crop(op: RandomCrop, uniforms: Uniforms, sizes_B2: INT64) -> INT64:
    """Corners of a random crop of the padded image, in pixels of the unpadded one: offsets_B2, at least -padding."""
    size, padding = exact_size(op.size), op.padding
    room_B2: INT64 = sizes_B2 + 2 * padding - np.array(size, dtype=np.int64)
    if room_B2.min() < 0:
        height, width = sizes_B2[room_B2.min(axis=1).argmin()]
        raise DataError(
            f"random_crop: {size[0]}x{size[1]} pixels do not fit in an image of {height}x{width} with padding "
            f"{padding}; put a resize before it or increase the padding"
        )
    return np.floor(uniforms(2) * (room_B2 + 1)).astype(np.int64) - padding


def random_resized_crop(op: RandomResizedCrop, uniforms: Uniforms, sizes_B2: INT64) -> INT64:
    """Boxes, boxes_B4, of random area and shape, each inside its image.

    The distribution of torchvision's `RandomResizedCrop.get_params`: up to 10 tries of an area uniform in `scale`
    (fractions of the image's) and a width / height log-uniform in `ratio`; when none fits, the largest centered box
    within `ratio`.
    """
    uniforms_BN = uniforms(22)
    tries_BT2 = draw_shapes(uniforms_BN[:, :20], sizes_B2, op.scale, op.ratio).astype(np.int64)
    fits_BT = np.all((tries_BT2 > 0) & (tries_BT2 <= sizes_B2[:, None]), axis=2)
    found_B1 = fits_BT.any(axis=1, keepdims=True)
    first_fit_B2 = tries_BT2[np.arange(len(sizes_B2)), fits_BT.argmax(axis=1)]
    extents_B2 = np.where(found_B1, first_fit_B2, _largest_within(sizes_B2, op.ratio))
    room_B2 = sizes_B2 - extents_B2
    corners_B2 = np.where(found_B1, np.floor(uniforms_BN[:, 20:] * (room_B2 + 1)).astype(np.int64), room_B2 // 2)
    return np.concatenate([corners_B2, extents_B2], axis=1)


def rotation(op: Rotation, uniforms: Uniforms, sizes_B2: INT64) -> FLOAT64:
    """angles_B, uniform in [-degrees, degrees), positive is counter-clockwise."""
    return between(uniforms(1)[:, 0], (-op.degrees, op.degrees))


def flip(op: HorizontalFlip | VerticalFlip, uniforms: Uniforms, sizes_B2: INT64) -> BOOL:
    """flips_B: True with probability p."""
    return uniforms(1)[:, 0] < op.p


def between(uniforms: FLOAT64, limits: tuple[float, float]) -> FLOAT64:
    """Uniform in [low, high)."""
    return limits[0] + (limits[1] - limits[0]) * uniforms


def draw_shapes(
    uniforms_BN: FLOAT64, sizes_B2: INT64, scale: tuple[float, float], ratio: tuple[float, float]
) -> FLOAT64:
    """Sides of T = N / 2 boxes in whole pixels, sides_BT2.

    Areas are uniform in `scale` (fractions of the image's), second side / first is log-uniform in `ratio`.
    """
    for_areas_BT, for_ratios_BT = np.split(uniforms_BN, 2, axis=1)
    areas_BT = np.prod(sizes_B2, axis=1, keepdims=True) * between(for_areas_BT, scale)
    ratios_BT = np.exp(between(for_ratios_BT, (np.log(ratio[0]), np.log(ratio[1]))))
    sides_BT2: FLOAT64 = np.round(np.sqrt(np.stack([areas_BT / ratios_BT, areas_BT * ratios_BT], axis=2)))
    return sides_BT2


def _largest_within(sizes_B2: INT64, ratio: tuple[float, float]) -> INT64:
    """Height and width of the largest box whose width / height is within `ratio`, at least one pixel."""
    bounds_B2 = np.round(sizes_B2[:, ::-1] * np.array([1 / ratio[0], ratio[1]])).astype(np.int64)
    largest_B2: INT64 = np.minimum(sizes_B2, np.maximum(bounds_B2, 1))
    return largest_B2
