"""The recipe's `augment` lists at work: every parameter of a batch is drawn first, then its pixels are moved.

Sizes after an operation follow from the sizes before it, so `draw_parameters` needs no pixel. What it returns is what a
resume check compares, and all that `fused_ops` needs to melt neighbouring operations into one.

Shapes: as in `ops` and `draw`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from launcher.augment import draw, ops
from launcher.augment.cpu import (
    IDENTITY_LUT_CV,
    PIECE_PIXELS,
    is_move,
    move_bytes,
    normalizing_lut,
    scale_and_move,
    scale_each,
)
from launcher.augment.draw import FLOAT64, INT64
from launcher.augment.fuse import FusedOp, Step, fuse_ops, whole_window
from launcher.augment.groups import on_device
from launcher.augment.images import ImageBatch, packed_images_of
from launcher.augment.parameter_hash import Record, record_nothing
from launcher.augment.pixels import PIXEL_OPS
from launcher.errors import DataError

Parameters = npt.NDArray[np.generic]


class Op(Protocol):
    """One entry of a list: a frozen model of the recipe. `op` is a key of KINDS, which reads its other fields."""

    @property
    def op(self) -> str: ...


@dataclass(frozen=True)
class OpSpec:
    """What an operation is: a row of the table."""

    draw: Callable[[Any, Callable[[int], FLOAT64], INT64], Parameters]
    """(recipe entry, numbers per sample -> uniforms_BN, sizes_B2 before) -> parameters."""
    sizes: Callable[[Any, INT64], INT64] = lambda op, sizes_B2: sizes_B2
    """(recipe entry, sizes_B2 before) -> sizes_B2 after."""


OPS: dict[str, OpSpec] = {
    "resize": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.whole_boxes(sizes_B2),
        sizes=lambda op, sizes_B2: draw.resized_sizes(sizes_B2, op.size),
    ),
    "center_crop": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.center_offsets(sizes_B2, draw.exact_size(op.size)),
        sizes=lambda op, sizes_B2: draw.exact_sizes(sizes_B2, op.size),
    ),
    "random_crop": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.draw_crop_offsets(
            uniforms(2), sizes_B2, draw.exact_size(op.size), op.padding
        ),
        sizes=lambda op, sizes_B2: draw.exact_sizes(sizes_B2, op.size),
    ),
    "random_resized_crop": OpSpec(
        draw=lambda op, uniforms, sizes_B2: draw.draw_random_resized_crop(
            uniforms(draw.RANDOM_RESIZED_CROP_NUMBERS), sizes_B2, op.scale, op.ratio
        ),
        sizes=lambda op, sizes_B2: draw.exact_sizes(sizes_B2, op.size),
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
    **{name: OpSpec(pixel_op.draw) for name, pixel_op in PIXEL_OPS.items()},
}

SCALING = ("resize", "random_resized_crop")
"""Operations that have an interpolation."""

DECODE_MARGIN = 2
"""An image may be decoded to a part of its size that is so many times as long and wide as what is made of it."""


def draw_parameters(entries: Sequence[Op], sizes_B2: INT64, ids_B: INT64, seed: int, epoch: int) -> list[Step]:
    """A Step for each entry of the list, for images of these sizes and sample ids."""
    steps = []
    for position, entry in enumerate(entries):
        kind = OPS[entry.op]
        uniforms = partial(draw.draw_uniforms, seed, epoch, ids_B, position)
        parameters = kind.draw(entry, uniforms, sizes_B2)
        sizes_B2 = kind.sizes(entry, sizes_B2)
        steps.append(Step(entry.op, parameters, sizes_B2, getattr(entry, "interpolation", "bilinear")))
    return steps


def output_size(entries: Sequence[Op]) -> tuple[int, int] | None:
    """(height, width) of every image after the list, None when that depends on the image.

    Found by sending a wide and a tall image through: only a list that fixes the size gives both the same one.
    """
    sizes_B2 = np.array([[1, 3], [3, 1]], dtype=np.int64)
    for entry in entries:
        sizes_B2 = OPS[entry.op].sizes(entry, sizes_B2)
    height, width = sizes_B2[0].tolist()
    return (height, width) if (sizes_B2 == sizes_B2[0]).all() else None


def find_min_side(entries: Sequence[Op]) -> int | None:
    """The shorter side, in pixels, of an image of which every crop is still shrunk by SHRINK in the first operation.

    None where that does not scale: every pixel is needed.
    """
    if not entries or entries[0].op not in SCALING:
        return None
    first: Any = entries[0]
    side: int = DECODE_MARGIN * max(draw.exact_size(first.size))
    if first.op == "resize":
        return side
    # Of a square image's side: of the smallest, longest crop, and of what is cut where no crop fits.
    drawn_frac = math.sqrt(first.scale[0] * min(first.ratio[0], 1 / first.ratio[1]))
    least_frac: float = min(drawn_frac, 1 / first.ratio[0], first.ratio[1], 1.0)
    return math.ceil(side / least_frac)


def apply_fused_ops(images: ImageBatch, fused_ops: Sequence[FusedOp]) -> Tensor:
    """images_BCHW after all passes, on the scale they had, on the smallest canvas that holds those of the whole batch.

    uint8 where nothing computed finer levels: after crops and flips, and on a CPU after a resize.
    """
    if images.device.type == "cpu" and images.is_bytes and fused_ops and _is_scaling(fused_ops[0]):
        images_BCHW = scale_each(images, fused_ops[0])
        fused_ops = fused_ops[1:]
    else:
        images_BCHW = images.canvas()
    for fused in fused_ops:
        images_BCHW = _apply_fused_op(images_BCHW, fused)
    return images_BCHW


def _is_scaling(fused: FusedOp) -> bool:
    return fused.step is not None and fused.step.op in SCALING


def _apply_fused_op(images_BCHW: Tensor, fused: FusedOp) -> Tensor:
    step, window = fused.step, fused.window
    if step is not None and step.op in PIXEL_OPS:
        images_BCHW = PIXEL_OPS[step.op].apply(images_BCHW.float(), step)
        if window.is_whole(step.sizes):
            return images_BCHW
        step = None
    if images_BCHW.dtype == torch.uint8 and images_BCHW.device.type == "cpu":
        if _is_scaling(fused):
            return scale_each(packed_images_of(images_BCHW), fused)
        if is_move(fused):
            out_BhwC = images_BCHW.new_empty(len(images_BCHW), *window.shape, 3)
            move_bytes(images_BCHW, fused, IDENTITY_LUT_CV, out_BhwC.permute(0, 3, 1, 2))
            return out_BhwC.permute(0, 3, 1, 2)

    rows_Bh, cols_Bw = on_device(window.rows_Bh, images_BCHW), on_device(window.cols_Bw, images_BCHW)
    wanted = rows_Bh.clamp(min=0), cols_Bw.clamp(min=0)
    if step is None:
        results_BChw = ops.take(images_BCHW, *wanted)
    else:
        parameters, sizes_B2 = on_device(step.parameters, images_BCHW), on_device(step.sizes, images_BCHW)
        apply = ops.resample if step.op in SCALING else ops.rotate
        results_BChw = apply(images_BCHW.float(), parameters, sizes_B2, *wanted, step.interpolation)
    # Asked of the window on the CPU, so that a GPU waits for no answer.
    return ops.blacken(results_BChw, rows_Bh >= 0, cols_Bw >= 0) if window.has_black else results_BChw


@dataclass(frozen=True)
class Augment:
    """A list of the recipe with its normalisation, ready to be called with batches."""

    entries: tuple[Op, ...]
    mean: Tensor
    """mean_C on the scale [0, 1]."""
    std: Tensor
    """std_C on the scale [0, 1]."""
    lut: Tensor
    """What is made of each level of a byte: levels_CV."""
    layout: torch.memory_format
    """Of the results on a CPU."""
    record: Record = record_nothing
    """Is told what each image is about to go through."""

    def __call__(self, images: ImageBatch, ids_B: INT64, seed: int, epoch: int) -> Tensor:
        """Normalised float32 images_BChw, on the device of the images, all of one size.

        Seed and epoch have no effect when nothing in the list is random. Raises DataError when sizes differ at the end.
        """
        sizes_B2 = images.sizes_B2
        steps = draw_parameters(self.entries, sizes_B2, ids_B, seed, epoch)
        _check_one_size(steps[-1].sizes if steps else sizes_B2)
        self.record(ids_B, epoch, [values for step in steps for values in (step.parameters, step.sizes)])
        fused_ops = fuse_ops(sizes_B2, steps)
        # Under autocast the products of `resample` would be rounded to bfloat16.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if images.device.type != "cpu":
                return ops.normalize(apply_fused_ops(images, fused_ops).float(), self.mean, self.std)
            return self._in_pieces(images, fused_ops, steps[-1].sizes if steps else sizes_B2)

    def _in_pieces(self, images: ImageBatch, fused_ops: Sequence[FusedOp], sizes_B2: INT64) -> Tensor:
        """A few images after the other, whose pixels stay in the CPU's caches from file to network."""
        # While bytes are bytes, they are normalised as they are moved for the last time.
        *fused_ops, last = (
            fused_ops if fused_ops and is_move(fused_ops[-1]) else [*fused_ops, FusedOp(None, whole_window(sizes_B2))]
        )
        batch = len(images.sizes_B2)
        results_BChw = torch.empty(batch, 3, *last.window.shape, memory_format=self.layout)
        if images.is_bytes and (scaled := _find_scaling(fused_ops, last)) is not None:
            scale_and_move(images, *scaled, self.lut, results_BChw)
            return results_BChw
        length = max(1, PIECE_PIXELS // _largest_canvas(images, fused_ops))
        for start in range(0, batch, length):
            piece = slice(start, start + length)
            images_PCHW = apply_fused_ops(images.part(piece), [fused.part(piece) for fused in fused_ops])
            if images_PCHW.dtype == torch.uint8:
                move_bytes(images_PCHW, last.part(piece), self.lut, results_BChw[piece])
            else:
                results_BChw[piece] = _apply_fused_op(images_PCHW, last.part(piece))
                ops.normalize(results_BChw[piece], self.mean, self.std)
        return results_BChw


def _find_scaling(fused_ops: Sequence[FusedOp], last: FusedOp) -> tuple[Step, FusedOp] | None:
    """A scaling, and the move after it, where that is all; a crop or flip seen through the scaling's window is one."""
    if len(fused_ops) != 1 or not _is_scaling(fused_ops[0]):
        return None
    step, window = fused_ops[0].step, fused_ops[0].window
    assert step is not None
    if window.is_whole(step.sizes):
        return step, last
    return (step, FusedOp(None, window)) if last.step is None else None


def _largest_canvas(images: ImageBatch, fused_ops: Sequence[FusedOp]) -> int:
    """Pixels of one image at its largest. Those that are scaled first are decoded one at a time."""
    canvases = [math.prod(fused.window.shape) for fused in fused_ops]
    return max(
        canvases if fused_ops and _is_scaling(fused_ops[0]) else [*canvases, int(images.sizes_B2.prod(axis=1).max())]
    )


def build_augment(
    entries: Sequence[Op],
    mean: Sequence[float],
    std: Sequence[float],
    layout: torch.memory_format = torch.contiguous_format,
) -> Augment:
    """The callable for a list of the recipe; mean and std per channel on the scale [0, 1]."""
    mean_C, std_C = torch.tensor(mean), torch.tensor(std)
    return Augment(tuple(entries), mean_C, std_C, normalizing_lut(mean_C, std_C), layout)


def _check_one_size(sizes_B2: INT64) -> None:
    if (sizes_B2 != sizes_B2[0]).any():
        low, high = sizes_B2.min(axis=0), sizes_B2.max(axis=0)
        raise DataError(
            f"augment leaves images of different sizes, heights {low[0]} to {high[0]}, widths {low[1]} to {high[1]}: "
            "end the list with a crop, or with a resize to [height, width]"
        )
