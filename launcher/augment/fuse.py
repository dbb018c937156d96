"""Fewer passes over the pixels: neighboring operations fused into one.

A flip or a crop only moves pixels. Those that follow one another fuse into one `Window`, and the window into the resize
or rotation before it, which then computes no pixel that is cropped later. Job A's four operations are two passes:
scale; rotate, flip and crop.

Shapes: as in `ops`. A window's `rows_Bh` and `cols_Bw` hold, for each row and column of the result, the row and column
that it is taken from; BLACK where there is none (`lines`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from launcher.augment.arrays import INT64, Parameters
from launcher.augment.lines import Lines, crop_lines
from launcher.augment.ops import Interpolation


@dataclass(frozen=True)
class DrawnOp:
    """One operation on one batch, with its parameters drawn."""

    name: str
    """A key of `ops_table.DRAWS`."""
    parameters: Parameters
    """boxes_B4, offsets_B2, angles_B (degrees, float64) or flips_B (bool), as the operation needs; the modules
    `draw_color`, `draw_policy` and `draw_warp` describe theirs."""
    sizes_B2: INT64
    """Sizes of the images after it."""
    interpolation: Interpolation = "bilinear"
    """Weighting of pixels, for an operation that scales, rotates or warps."""


@dataclass(frozen=True)
class Window:
    """The pixels that any sequence of crops and flips keeps, and their new places."""

    rows: Lines
    cols: Lines

    @property
    def rows_Bh(self) -> INT64:  # noqa: N802 - the shape's suffix
        return self.rows.sources_BI

    @property
    def cols_Bw(self) -> INT64:  # noqa: N802 - the shape's suffix
        return self.cols.sources_BI

    def then(self, later: Window) -> Window:
        """This window followed by a later one."""
        return Window(self.rows.then(later.rows), self.cols.then(later.cols))

    def is_whole(self, sizes_B2: INT64) -> bool:
        """Whether it leaves images of these sizes as they are."""
        return self.rows.is_whole(sizes_B2[:, 0]) and self.cols.is_whole(sizes_B2[:, 1])

    def trimmed(self) -> Window:
        """On the smallest canvas that holds all pixels, for images from the top left corner on."""
        return Window(self.rows.trimmed(), self.cols.trimmed())

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the resulting canvas."""
        return self.rows.num, self.cols.num

    @property
    def has_black(self) -> bool:
        return self.rows.has_black or self.cols.has_black


@dataclass(frozen=True)
class FusedOp:
    """One pass over the pixels: a resize, a rotation, a row of PIXEL_OPS, or None of them, followed by a window."""

    drawn: DrawnOp | None
    window: Window

    @property
    def is_scaling(self) -> bool:
        return self.drawn is not None and self.drawn.name in ("resize", "random_resized_crop")

    @property
    def is_move(self) -> bool:
        """Whether each pixel of the result is one pixel of the image, unchanged."""
        drawn = self.drawn
        return drawn is None or (drawn.name == "rotation" and drawn.interpolation == "nearest")

    def part(self, images: slice | INT64) -> FusedOp:
        """The same for some images of the batch, on canvases of the same size."""
        drawn, window = self.drawn, Window(self.window.rows.part(images), self.window.cols.part(images))
        if drawn is not None:
            drawn = replace(drawn, parameters=drawn.parameters[images], sizes_B2=drawn.sizes_B2[images])
        return FusedOp(drawn, window)


def fuse_ops(sizes_B2: INT64, drawn_ops: Sequence[DrawnOp]) -> list[FusedOp]:
    """The passes that do to images of these sizes what the operations do; none for no operation."""
    first_B2 = sizes_B2
    fused_ops = [FusedOp(None, whole_window(sizes_B2))]
    for drawn in drawn_ops:
        window = _window_of(drawn, sizes_B2)
        if window is None:
            fused_ops.append(FusedOp(drawn, whole_window(drawn.sizes_B2)))
        else:
            fused_ops[-1] = replace(fused_ops[-1], window=fused_ops[-1].window.then(window))
        sizes_B2 = drawn.sizes_B2
    return [fused for fused in fused_ops if fused.drawn is not None or not fused.window.is_whole(first_B2)]


def _window_of(drawn: DrawnOp, sizes_B2: INT64) -> Window | None:
    """None for an operation that computes new pixels; `sizes_B2`: before it."""
    if drawn.name in ("center_crop", "random_crop"):
        return crop_window(drawn.parameters, sizes_B2, drawn.sizes_B2)
    whole = whole_window(sizes_B2)
    if drawn.name == "horizontal_flip":
        return replace(whole, cols=whole.cols.mirrored(drawn.parameters))
    if drawn.name == "vertical_flip":
        return replace(whole, rows=whole.rows.mirrored(drawn.parameters))
    return None


def whole_window(sizes_B2: INT64) -> Window:
    """All of each image, on the smallest canvas that holds them."""
    return crop_window(np.zeros_like(sizes_B2), sizes_B2, sizes_B2)


def crop_window(offsets_B2: INT64, sizes_B2: INT64, after_B2: INT64) -> Window:
    """The part that starts at `offsets`, for a canvas that holds the sizes after; black outside of each image."""
    height, width = after_B2.max(axis=0).tolist()
    return Window(
        crop_lines(offsets_B2[:, 0], sizes_B2[:, 0], height), crop_lines(offsets_B2[:, 1], sizes_B2[:, 1], width)
    )
