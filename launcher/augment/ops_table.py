"""Every operation of a recipe's `augment` lists: how its parameters are drawn, and the sizes of images after it.

Sizes after an operation follow from the sizes before it, so drawing needs no pixel. The parameters are all that
`fuse_ops` needs, and what a resume check compares.

Shapes: as in `draw`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from launcher.augment import draw
from launcher.augment.arrays import FLOAT64, INT64, Parameters
from launcher.augment.fuse import DrawnOp
from launcher.augment.pixels import PIXEL_OPS
from launcher.augment.sizes import exact_size, exact_sizes, resized_sizes
from launcher.recipe.augment import TrainOp


@dataclass(frozen=True)
class OpSpec:
    """One operation: a row of OPS."""

    draw: Callable[[Any, Callable[[int], FLOAT64], INT64], Parameters]
    """(op of the recipe, numbers per sample -> uniforms_BN, sizes_B2 before) -> parameters."""
    sizes: Callable[[Any, INT64], INT64] = lambda op, sizes_B2: sizes_B2
    """(op of the recipe, sizes_B2 before) -> sizes_B2 after."""


OPS: dict[str, OpSpec] = {
    "resize": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.whole_boxes(sizes_B2),
        sizes=lambda op, sizes_B2: resized_sizes(sizes_B2, op.size),
    ),
    "center_crop": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.center_offsets(sizes_B2, exact_size(op.size)),
        sizes=lambda op, sizes_B2: exact_sizes(sizes_B2, op.size),
    ),
    "random_crop": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.draw_crop_offsets(
            uniforms(2), sizes_B2, exact_size(op.size), op.padding
        ),
        sizes=lambda op, sizes_B2: exact_sizes(sizes_B2, op.size),
    ),
    "random_resized_crop": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.draw_random_resized_crop(
            uniforms(draw.RANDOM_RESIZED_CROP_NUMBERS), sizes_B2, op.scale, op.ratio
        ),
        sizes=lambda op, sizes_B2: exact_sizes(sizes_B2, op.size),
    ),
    "rotation": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.draw_angles(uniforms(1)[:, 0], op.degrees),
    ),
    "horizontal_flip": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.draw_flips(uniforms(1)[:, 0], op.p),
    ),
    "vertical_flip": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.draw_flips(uniforms(1)[:, 0], op.p),
    ),
    **{name: OpSpec(spec.draw) for name, spec in PIXEL_OPS.items()},
}


def draw_parameters(ops: Sequence[TrainOp], sizes_B2: INT64, ids_B: INT64, seed: int, epoch: int) -> list[DrawnOp]:
    """A DrawnOp for each op of the list, for images of these sizes and sample ids."""
    drawn_ops = []
    for position, op in enumerate(ops):
        spec = OPS[op.op]
        uniforms = partial(draw.draw_uniforms, seed, epoch, ids_B, position)
        parameters = spec.draw(op, uniforms, sizes_B2)
        sizes_B2 = spec.sizes(op, sizes_B2)
        drawn_ops.append(DrawnOp(op.op, parameters, sizes_B2, getattr(op, "interpolation", "bilinear")))
    return drawn_ops
