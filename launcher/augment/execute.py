"""The recipe's `augment` lists applied to batches: all parameters are drawn first, then the pixels are moved.

On a GPU the operations of `ops` run on the whole batch, or on large parts of it (`chunks`). On a CPU a few images at a
time pass through all of them, so that their pixels stay in the caches, and bytes stay bytes as long as possible
(`cpu`).

Shapes: as in `ops` and `draw`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from launcher.augment.arrays import INT64
from launcher.augment.batch import apply_to_batch
from launcher.augment.chunks import apply_passes, plan_passes
from launcher.augment.cpu import IDENTITY_LUT_CV, as_scale_and_move, move_bytes, new_bytes, scale_and_move, scale_each
from launcher.augment.fuse import FusedOp, fuse_ops, whole_window
from launcher.augment.images import ImageBatch, PackedImages, packed_images_of
from launcher.augment.ops import normalize
from launcher.augment.ops_table import draw_parameters
from launcher.augment.parameter_hash import HashRecorder, NullParameterHashes
from launcher.errors import DataError
from launcher.recipe.augment import TrainOp

PIECE_PIXELS = 2**19
"""Pixels of images that a CPU works on together, so that they stay in the caches: eight of 256x256."""


@dataclass(frozen=True)
class Augment:
    """A list of the recipe with its normalization: called with batches."""

    ops: tuple[TrainOp, ...]
    mean: Tensor
    """mean_C on the scale [0, 1]."""
    std: Tensor
    """std_C on the scale [0, 1]."""
    lut_CV: Tensor
    """Normalized number of each value of a byte."""
    layout: torch.memory_format
    """Memory layout of the results on a CPU."""
    hashes: HashRecorder = field(default_factory=NullParameterHashes)
    """Records the parameters that are applied to each image."""

    def __call__(self, images: ImageBatch, ids_B: INT64, seed: int, view: int) -> Tensor:
        """Normalized float32 images_BChw, on the device of the images, all of one size.

        `view`: the epoch, modulo `augment.views` if set; it and the seed have no effect where nothing is random. Raise
        DataError when sizes differ at the end.
        """
        drawn_ops = draw_parameters(self.ops, images.sizes_B2, ids_B, seed, view)
        sizes_B2 = drawn_ops[-1].sizes_B2 if drawn_ops else images.sizes_B2
        _check_one_size(sizes_B2)
        self.hashes.record(ids_B, view, [values for op in drawn_ops for values in (op.parameters, op.sizes_B2)])
        # Under autocast the products of `resample` would be rounded to bfloat16.
        with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
            if images.device.type == "cpu":
                return self._in_pieces(images, fuse_ops(images.sizes_B2, drawn_ops), sizes_B2)
            assert isinstance(images, PackedImages)
            images_BCHW = apply_passes(images, plan_passes(images.sizes_B2, self.ops, drawn_ops))
            return normalize(images_BCHW.float(), self.mean, self.std)

    def _in_pieces(self, images: ImageBatch, fused_ops: Sequence[FusedOp], sizes_B2: INT64) -> Tensor:
        """A few images after the other; `sizes_B2`: after all operations."""
        # Bytes are normalized as they are moved for the last time.
        if not fused_ops or not fused_ops[-1].is_move:
            fused_ops = [*fused_ops, FusedOp(None, whole_window(sizes_B2))]
        *fused_ops, last = fused_ops
        batch = len(images.sizes_B2)
        results_BChw = torch.empty(batch, 3, *last.window.shape, memory_format=self.layout)
        if images.is_uint8 and (scaled := as_scale_and_move(fused_ops, last)) is not None:
            scale_and_move(images, *scaled, self.lut_CV, results_BChw)
            return results_BChw
        length = max(1, PIECE_PIXELS // _largest_canvas(images, fused_ops))
        for start in range(0, batch, length):
            piece = slice(start, start + length)
            images_PCHW = apply_fused_ops(images.part(piece), [fused.part(piece) for fused in fused_ops])
            if images_PCHW.dtype == torch.uint8:
                move_bytes(images_PCHW, last.part(piece), self.lut_CV, results_BChw[piece])
            else:
                results_BChw[piece] = _apply_fused_op(images_PCHW, last.part(piece))
                normalize(results_BChw[piece], self.mean, self.std)
        return results_BChw


def build_augment(
    ops: Sequence[TrainOp],
    mean: Sequence[float],
    std: Sequence[float],
    layout: torch.memory_format = torch.contiguous_format,
) -> Augment:
    """The callable for a list of the recipe; mean and std per channel on the scale [0, 1]."""
    mean_C, std_C = torch.tensor(mean), torch.tensor(std)
    levels_1C1V = torch.arange(256.0).repeat(1, 3, 1, 1)
    lut_CV = normalize(levels_1C1V, mean_C, std_C)[0, :, 0]
    return Augment(tuple(ops), mean_C, std_C, lut_CV, layout)


def apply_fused_ops(images: ImageBatch, fused_ops: Sequence[FusedOp]) -> Tensor:
    """On a CPU, images_BCHW after all of them, on the scale they had, on the smallest canvas that holds all.

    uint8 where nothing computed finer levels: after crops, flips and a resize.
    """
    if images.is_uint8 and fused_ops and fused_ops[0].is_scaling:
        images_BCHW = scale_each(images, fused_ops[0])
        fused_ops = fused_ops[1:]
    else:
        images_BCHW = images.canvas()
    for fused in fused_ops:
        images_BCHW = _apply_fused_op(images_BCHW, fused)
    return images_BCHW


def _apply_fused_op(images_BCHW: Tensor, fused: FusedOp) -> Tensor:
    if images_BCHW.dtype == torch.uint8:
        if fused.is_scaling:
            return scale_each(packed_images_of(images_BCHW), fused)
        if fused.is_move:
            moved_BChw = new_bytes(len(images_BCHW), fused.window)
            move_bytes(images_BCHW, fused, IDENTITY_LUT_CV, moved_BChw)
            return moved_BChw
    return apply_to_batch(images_BCHW, fused)


def _largest_canvas(images: ImageBatch, fused_ops: Sequence[FusedOp]) -> int:
    """Pixels of one image at its largest. Images that are scaled first are decoded one at a time and do not count."""
    canvases = [math.prod(fused.window.shape) for fused in fused_ops]
    is_scaled_first = bool(fused_ops) and fused_ops[0].is_scaling
    return max(canvases if is_scaled_first else [*canvases, int(images.sizes_B2.prod(axis=1).max())])


def _check_one_size(sizes_B2: INT64) -> None:
    if (sizes_B2 != sizes_B2[0]).any():
        low, high = sizes_B2.min(axis=0), sizes_B2.max(axis=0)
        raise DataError(
            f"augment leaves images of different sizes, heights {low[0]} to {high[0]}, widths {low[1]} to {high[1]}: "
            "end the list with a crop, or with a resize to [height, width]"
        )
