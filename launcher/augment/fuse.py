"""From one step per operation to a shorter list of passes over the pixels.

A flip or a crop only says which pixel goes where. Those that follow one another melt into one `Window`, and the window
into the resize or rotation before it, which then computes no pixel that is thrown away later. Job A's four operations
are two passes: scale; turn, flip and cut.

Shapes: as in `ops`. A window's `rows_Bh` and `cols_Bw` say, for each row and column of the result, the one that it is
taken from; BLACK where there is none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from launcher.augment.draw import BOOL, INT64
from launcher.augment.ops import Interpolation

BLACK = -1


@dataclass(frozen=True)
class Step:
    """One operation on one batch, its randomness resolved."""

    op: str
    parameters: npt.NDArray[np.generic]
    """boxes_B4, offsets_B2, angles_B (degrees, float64) or flips_B (bool), as the operation needs; of those in `pixels`
    what is said there."""
    sizes: INT64
    """sizes_B2 of the images after it."""
    interpolation: Interpolation = "bilinear"
    """How an operation that scales, turns or bends weighs pixels."""


@dataclass(frozen=True)
class Window:
    """Which pixels survive and where they go: any sequence of crops and flips."""

    rows_Bh: INT64
    cols_Bw: INT64

    def then(self, later: Window) -> Window:
        """This window, looked at through a later one."""
        return Window(_through(self.rows_Bh, later.rows_Bh), _through(self.cols_Bw, later.cols_Bw))

    def is_whole(self, sizes_B2: INT64) -> bool:
        """Whether it shows images of these sizes as they are."""
        whole = whole_window(sizes_B2)
        return np.array_equal(self.rows_Bh, whole.rows_Bh) and np.array_equal(self.cols_Bw, whole.cols_Bw)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the canvas seen."""
        return self.rows_Bh.shape[1], self.cols_Bw.shape[1]

    @property
    def has_black(self) -> bool:
        return bool((self.rows_Bh == BLACK).any() or (self.cols_Bw == BLACK).any())


@dataclass(frozen=True)
class FusedOp:
    """Pixels read and written once: a resize, a rotation, one of `pixels`, or none of them, seen through a window."""

    step: Step | None
    window: Window

    def part(self, images: slice) -> FusedOp:
        """The same for some images of the batch, on canvases of the same size."""
        step, window = self.step, Window(self.window.rows_Bh[images], self.window.cols_Bw[images])
        if step is not None:
            step = replace(step, parameters=step.parameters[images], sizes=step.sizes[images])
        return FusedOp(step, window)


def fuse_ops(sizes_B2: INT64, steps: Sequence[Step]) -> list[FusedOp]:
    """The passes that do what the steps do to images of these sizes; none for no steps."""
    fused_ops: list[FusedOp] = []
    first_B2 = sizes_B2
    for step in steps:
        if step.op not in _WINDOWS:
            fused_ops.append(FusedOp(step, whole_window(step.sizes)))
        elif fused_ops:
            fused_ops[-1] = replace(fused_ops[-1], window=fused_ops[-1].window.then(_WINDOWS[step.op](step, sizes_B2)))
        else:
            fused_ops.append(FusedOp(None, _WINDOWS[step.op](step, sizes_B2)))
        sizes_B2 = step.sizes
    return [fused for fused in fused_ops if fused.step is not None or not fused.window.is_whole(first_B2)]


def whole_window(sizes_B2: INT64) -> Window:
    """All of each image, on the smallest canvas that holds them."""
    return crop_window(np.zeros_like(sizes_B2), sizes_B2, sizes_B2)


def crop_window(offsets_B2: INT64, sizes_B2: INT64, after_B2: INT64) -> Window:
    """The part that starts at `offsets`, for a canvas that holds the sizes after; black outside of each image."""
    height, width = after_B2.max(axis=0).tolist()
    return Window(
        _line(offsets_B2[:, 0], sizes_B2[:, 0], height),
        _line(offsets_B2[:, 1], sizes_B2[:, 1], width),
    )


def _line(starts_B: INT64, lengths_B: INT64, num: int) -> INT64:
    pixels_BI = starts_B[:, None] + np.arange(num)
    return np.where((pixels_BI >= 0) & (pixels_BI < lengths_B[:, None]), pixels_BI, BLACK)


def _mirrored(line_BI: INT64, lengths_B: INT64, flips_B: BOOL) -> INT64:
    return np.where(flips_B[:, None] & (line_BI != BLACK), lengths_B[:, None] - 1 - line_BI, line_BI)


def _through(earlier_BI: INT64, later_BO: INT64) -> INT64:
    seen_BO = np.take_along_axis(earlier_BI, np.maximum(later_BO, 0), axis=1)
    return np.where(later_BO == BLACK, BLACK, seen_BO)


def _crop(step: Step, sizes_B2: INT64) -> Window:
    return crop_window(step.parameters.astype(np.int64), sizes_B2, step.sizes)


def _flip_horizontal(step: Step, sizes_B2: INT64) -> Window:
    whole = whole_window(sizes_B2)
    return replace(whole, cols_Bw=_mirrored(whole.cols_Bw, sizes_B2[:, 1], step.parameters.astype(np.bool_)))


def _flip_vertical(step: Step, sizes_B2: INT64) -> Window:
    whole = whole_window(sizes_B2)
    return replace(whole, rows_Bh=_mirrored(whole.rows_Bh, sizes_B2[:, 0], step.parameters.astype(np.bool_)))


_WINDOWS: dict[str, Callable[[Step, INT64], Window]] = {
    "center_crop": _crop,
    "random_crop": _crop,
    "horizontal_flip": _flip_horizontal,
    "vertical_flip": _flip_vertical,
}
"""(step, sizes_B2 before) -> window, for the operations that compute no new pixel."""
