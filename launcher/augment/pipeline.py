"""The recipe's `augment` lists at work: every parameter of a batch is drawn first, then its pixels are moved.

Sizes after an operation follow from the sizes before it, so `draw_parameters` needs no pixel. What it returns is what a
resume check compares, and all that is needed to melt neighbouring operations into one.

Shapes: as in `ops` and `draw`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from launcher.augment import draw, ops
from launcher.augment.draw import FLOAT64, INT64
from launcher.errors import DataError

Parameters = npt.NDArray[np.generic]


class Op(Protocol):
    """One entry of a list: a frozen model of the recipe. `op` is a key of KINDS, which reads its other fields."""

    @property
    def op(self) -> str: ...


@dataclass(frozen=True)
class Step:
    """One operation on one batch, its randomness resolved."""

    op: str
    parameters: Parameters
    """boxes_B4, offsets_B2, angles_B (degrees, float64) or flips_B (bool), as the operation needs."""
    sizes: INT64
    """sizes_B2 of the images after it."""


@dataclass(frozen=True)
class Kind:
    """What an operation is: a row of the table."""

    draw: Callable[[Any, Callable[[int], FLOAT64], INT64], Parameters]
    """(recipe entry, numbers per sample -> uniforms_BN, sizes_B2 before) -> parameters."""
    apply: Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]
    """(images_BCHW, parameters, sizes_B2 after, canvas after) -> images_BChw."""
    sizes: Callable[[Any, INT64], INT64] = lambda op, sizes_B2: sizes_B2
    """(recipe entry, sizes_B2 before) -> sizes_B2 after."""


KINDS: dict[str, Kind] = {
    "resize": Kind(
        draw=lambda op, uniforms, sizes_B2: draw.whole_boxes(sizes_B2),
        apply=ops.resample,
        sizes=lambda op, sizes_B2: draw.resized_sizes(sizes_B2, op.size),
    ),
    "center_crop": Kind(
        draw=lambda op, uniforms, sizes_B2: draw.center_offsets(sizes_B2, draw.exact_size(op.size)),
        apply=lambda images, offsets_B2, sizes_B2, canvas: ops.crop(images, offsets_B2, canvas),
        sizes=lambda op, sizes_B2: draw.exact_sizes(sizes_B2, op.size),
    ),
    "random_crop": Kind(
        draw=lambda op, uniforms, sizes_B2: draw.draw_crop_offsets(
            uniforms(2), sizes_B2, draw.exact_size(op.size), op.padding
        ),
        apply=lambda images, offsets_B2, sizes_B2, canvas: ops.crop(images, offsets_B2, canvas),
        sizes=lambda op, sizes_B2: draw.exact_sizes(sizes_B2, op.size),
    ),
    "random_resized_crop": Kind(
        draw=lambda op, uniforms, sizes_B2: draw.draw_random_resized_crop(
            uniforms(draw.RANDOM_RESIZED_CROP_NUMBERS), sizes_B2, op.scale, op.ratio
        ),
        apply=ops.resample,
        sizes=lambda op, sizes_B2: draw.exact_sizes(sizes_B2, op.size),
    ),
    "rotation": Kind(
        draw=lambda op, uniforms, sizes_B2: draw.draw_angles(uniforms(1)[:, 0], op.degrees),
        apply=lambda images, angles_B, sizes_B2, canvas: ops.rotate(images, angles_B, sizes_B2),
    ),
    "horizontal_flip": Kind(
        draw=lambda op, uniforms, sizes_B2: draw.draw_flips(uniforms(1)[:, 0], op.p),
        apply=lambda images, flips_B, sizes_B2, canvas: ops.flip_horizontal(images, flips_B, sizes_B2),
    ),
    "vertical_flip": Kind(
        draw=lambda op, uniforms, sizes_B2: draw.draw_flips(uniforms(1)[:, 0], op.p),
        apply=lambda images, flips_B, sizes_B2, canvas: ops.flip_vertical(images, flips_B, sizes_B2),
    ),
}


def draw_parameters(entries: Sequence[Op], sizes_B2: INT64, ids_B: INT64, seed: int, epoch: int) -> list[Step]:
    """A Step for each entry of the list, for images of these sizes and sample ids."""
    steps = []
    for position, entry in enumerate(entries):
        kind = KINDS[entry.op]
        uniforms = partial(draw.draw_uniforms, seed, epoch, ids_B, position)
        parameters = kind.draw(entry, uniforms, sizes_B2)
        sizes_B2 = kind.sizes(entry, sizes_B2)
        steps.append(Step(entry.op, parameters, sizes_B2))
    return steps


def output_size(entries: Sequence[Op]) -> tuple[int, int] | None:
    """(height, width) of every image after the list, None when that depends on the image.

    Found by sending a wide and a tall image through: only a list that fixes the size gives both the same one.
    """
    sizes_B2 = np.array([[1, 3], [3, 1]], dtype=np.int64)
    for entry in entries:
        sizes_B2 = KINDS[entry.op].sizes(entry, sizes_B2)
    height, width = sizes_B2[0].tolist()
    return (height, width) if (sizes_B2 == sizes_B2[0]).all() else None


def apply_steps(canvas_BCHW: Tensor, sizes_B2: INT64, steps: Sequence[Step]) -> Tensor:
    """The images after all steps, float32 on the scale of the canvas, on the smallest canvas that holds them."""
    height, width = sizes_B2.max(axis=0).tolist()
    images_BCHW = canvas_BCHW[:, :, :height, :width].float()
    device = images_BCHW.device
    for step in steps:
        height, width = step.sizes.max(axis=0).tolist()
        parameters = torch.tensor(step.parameters).to(device, non_blocking=True)
        after_B2 = torch.tensor(step.sizes).to(device, non_blocking=True)
        images_BCHW = KINDS[step.op].apply(images_BCHW, parameters, after_B2, (height, width))
    return images_BCHW


@dataclass(frozen=True)
class Augment:
    """A list of the recipe with its normalisation, ready to be called with batches."""

    entries: tuple[Op, ...]
    mean: Tensor
    """mean_C on the scale [0, 1]."""
    std: Tensor
    """std_C on the scale [0, 1]."""

    @torch.no_grad()
    def __call__(self, canvas_BCHW: Tensor, sizes_B2: INT64, ids_B: INT64, seed: int, epoch: int) -> Tensor:
        """Normalised float32 images_BChw, on the device of the canvas, all of one size.

        `canvas_BCHW`: uint8, each image in its top left corner, zero elsewhere. `sizes_B2`, `ids_B`: int64, on the CPU.
        Seed and epoch have no effect when nothing in the list is random. Raises DataError when sizes differ at the end.
        """
        steps = draw_parameters(self.entries, sizes_B2, ids_B, seed, epoch)
        _check_one_size(steps[-1].sizes if steps else sizes_B2)
        # Under autocast the products of `resample` would be rounded to bfloat16.
        with torch.autocast(canvas_BCHW.device.type, enabled=False):
            images_BChw = apply_steps(canvas_BCHW, sizes_B2, steps) / 255
            return ops.normalize(images_BChw, self.mean, self.std)


def build_augment(entries: Sequence[Op], mean: Sequence[float], std: Sequence[float]) -> Augment:
    """The callable for a list of the recipe; mean and std per channel on the scale [0, 1]."""
    return Augment(tuple(entries), torch.tensor(mean), torch.tensor(std))


def _check_one_size(sizes_B2: INT64) -> None:
    if (sizes_B2 != sizes_B2[0]).any():
        low, high = sizes_B2.min(axis=0), sizes_B2.max(axis=0)
        raise DataError(
            f"augment leaves images of different sizes, heights {low[0]} to {high[0]}, widths {low[1]} to {high[1]}: "
            "end the list with a crop, or with a resize to [height, width]"
        )
