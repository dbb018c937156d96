"""Bytes on a CPU against the batch operations of a GPU, torchvision and Pillow."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from launcher.augment import cpu, ops
from launcher.augment.draw import INT64, center_offsets, exact_sizes, whole_boxes
from launcher.augment.ops import Interpolation
from launcher.augment.passes import Window, crop_window, whole_window
from tests.augment.photographs import load_photographs, pack

LEVELS: dict[Interpolation, float] = {"bilinear": 1.01, "bicubic": 1.2}
"""Most levels of 255 between bytes and floats: each axis is rounded, and so are the filter's weights, which for bicubic
sum to more than one in size."""
LAYOUTS = [torch.contiguous_format, torch.channels_last]
ONES = [(1, 1), (1, 9), (9, 1), (2, 2), (3, 1), (5, 8)]


def images(kind: str) -> tuple[Tensor, INT64]:
    if kind == "photographs":
        return pack(load_photographs())
    photograph = load_photographs()[0]
    if kind == "digits":
        return pack([photograph[:, i : i + 8, 40 : 40 + 8] for i in range(7)])
    return pack([photograph[:, 100 : 100 + h, 50 : 50 + w] for h, w in ONES])


def as_batch(canvas_BCHW: Tensor, boxes_B4: INT64, sizes_B2: INT64, window: Window, mode: Interpolation) -> Tensor:
    rows_Bh, cols_Bw = torch.tensor(window.rows_Bh), torch.tensor(window.cols_Bw)
    parameters = torch.tensor(boxes_B4), torch.tensor(sizes_B2), rows_Bh.clamp(min=0), cols_Bw.clamp(min=0)
    return ops.blacken(ops.resample(canvas_BCHW.float(), *parameters, mode), rows_Bh >= 0, cols_Bw >= 0)


@pytest.mark.parametrize("kind", ["photographs", "digits", "tiny"])
@pytest.mark.parametrize("size", [(256, 256), (224, 97), (8, 8), (1, 1), (1, 7), (300, 1), (2, 3)])
@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bytes_equal_the_batch(
    kind: str, size: tuple[int, int], mode: Interpolation, layout: torch.memory_format
) -> None:
    canvas_BCHW, sizes_B2 = images(kind)
    boxes_B4, after_B2 = whole_boxes(sizes_B2), exact_sizes(sizes_B2, size)
    for cut in (size, (5, 6), (280, 301)):
        window = whole_window(after_B2).then(
            crop_window(center_offsets(after_B2, cut), after_B2, exact_sizes(after_B2, cut))
        )
        inputs = canvas_BCHW.contiguous(memory_format=layout), boxes_B4, after_B2, window, mode
        difference = (cpu.resample_bytes(*inputs) - as_batch(*inputs)).abs()
        assert float(difference.max()) <= LEVELS[mode]
        assert float(difference.mean()) < 0.3 or kind != "photographs" or min(size) < 8


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("photographs", "bilinear"), ("tiny", "bilinear"), ("tiny", "bicubic")],  # elsewhere Pillow 12 takes rows first
)
def test_bytes_equal_pillow(kind: str, mode: Interpolation) -> None:
    canvas_BCHW, sizes_B2 = images(kind)
    after_B2 = exact_sizes(sizes_B2, (45, 40))
    scaled_BCHW = cpu.resample_bytes(canvas_BCHW, whole_boxes(sizes_B2), after_B2, whole_window(after_B2), mode)
    for image_CHW, (height, width), scaled_CHW in zip(canvas_BCHW, sizes_B2.tolist(), scaled_BCHW, strict=True):
        picture = Image.fromarray(image_CHW[:, :height, :width].permute(1, 2, 0).contiguous().numpy())
        expected = np.asarray(picture.resize((40, 45), Image.Resampling[mode.upper()])).astype(int)
        assert np.abs(scaled_CHW.permute(1, 2, 0).numpy() - expected).max() <= 1


@pytest.mark.parametrize(("batch", "pixels"), [(1, 10), (5, 10), (32, 300_000), (33, 2**22), (7, 2**20)])
def test_pieces_cover_the_batch_once(batch: int, pixels: int) -> None:
    seen = np.zeros(batch, dtype=np.int64)
    num_threads = torch.get_num_threads()

    def work(piece: slice) -> None:
        seen[piece] += 1

    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            seen[:] = 0
            cpu.in_pieces(work, batch, pixels)
            assert (seen == 1).all()
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(num_threads)


def test_an_error_in_a_piece_is_raised() -> None:
    def fail(piece: slice) -> None:
        raise ValueError(piece)

    with pytest.raises(ValueError, match="slice"):
        cpu.in_pieces(fail, 4, 2**20)
