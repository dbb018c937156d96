"""How the parameters of every operation of a recipe's `augment` lists are drawn.

Sizes after an operation follow from the sizes before it, so drawing needs no pixel. The parameters are all that
`fuse_ops` needs, and what a resume check compares.

Shapes: as in `draw`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from launcher.augment import draw, draw_color, draw_policy, draw_warp
from launcher.augment.arrays import INT64, Parameters, Uniforms
from launcher.augment.draw_color import WHITE, choose
from launcher.augment.fuse import DrawnOp
from launcher.augment.sizes import exact_size, sizes_after
from launcher.recipe.augment import TrainOp

DRAWS: dict[str, Callable[[Any, Uniforms, INT64], Parameters]] = {
    "resize": lambda op, uniforms, sizes_B2: draw.whole_boxes(sizes_B2),
    "center_crop": lambda op, uniforms, sizes_B2: draw.center_offsets(sizes_B2, exact_size(op.size)),
    "random_crop": draw.random_crop,
    "random_resized_crop": draw.random_resized_crop,
    "rotation": draw.rotation,
    "horizontal_flip": draw.flip,
    "vertical_flip": draw.flip,
    "affine": draw_warp.affine,
    "perspective": draw_warp.perspective,
    "color_jitter": draw_color.color_jitter,
    "grayscale": lambda op, uniforms, sizes_B2: choose(op.p, uniforms, 1.0, 0.0),
    "gamma": lambda op, uniforms, sizes_B2: draw.between(uniforms(1)[:, 0], op.gamma),
    "solarize": lambda op, uniforms, sizes_B2: choose(op.p, uniforms, op.threshold * WHITE, np.inf),
    "posterize": lambda op, uniforms, sizes_B2: choose(op.p, uniforms, op.bits, 8.0),
    "autocontrast": lambda op, uniforms, sizes_B2: choose(op.p, uniforms, 1.0, 0.0),
    "equalize": lambda op, uniforms, sizes_B2: choose(op.p, uniforms, 1.0, 0.0),
    "sharpness": lambda op, uniforms, sizes_B2: choose(op.p, uniforms, op.factor, 1.0),
    "gaussian_blur": draw_color.gaussian_blur,
    "gaussian_noise": draw_color.gaussian_noise,
    "random_erasing": draw_color.random_erasing,
    "rand_augment": draw_policy.rand_augment,
    "trivial_augment": draw_policy.trivial_augment,
}
"""(op of the recipe, uniforms, sizes_B2 before) -> parameters, by the name of the operation."""


def draw_parameters(ops: Sequence[TrainOp], sizes_B2: INT64, ids_B: INT64, seed: int, view: int) -> list[DrawnOp]:
    """A DrawnOp for each op of the list, for images of these sizes and sample ids."""
    drawn_ops = []
    for position, op in enumerate(ops):
        uniforms = partial(draw.draw_uniforms, seed, view, ids_B, position)
        parameters = DRAWS[op.op](op, uniforms, sizes_B2)
        sizes_B2 = sizes_after(op, sizes_B2)
        drawn_ops.append(DrawnOp(op.op, parameters, sizes_B2, getattr(op, "interpolation", "bilinear")))
    return drawn_ops
