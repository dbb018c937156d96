"""A GPU's road through the first passes: boxes in chunks, their pixels and their memory, on a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from launcher.augment import chunks
from launcher.augment.arrays import INT64
from launcher.augment.batch import apply_to_batch
from launcher.augment.chunks import apply_passes, plan_chunks, plan_passes
from launcher.augment.fuse import fuse_ops
from launcher.augment.images import PackedImages, pack_side_by_side
from launcher.augment.memory import peak_bytes
from launcher.augment.ops_table import draw_parameters
from launcher.recipe.augment import (
    CenterCrop,
    HorizontalFlip,
    RandomCrop,
    RandomResizedCrop,
    Rotation,
    TrainOp,
)
from tests.augment.allocations import peak_of
from tests.augment.op_lists import EVAL, EVERYTHING, LENET, TRAIN
from tests.augment.photographs import in_a_block, load_photographs
from tests.augment.test_pixels import ALL_OPS, SCALE

PHOTOGRAPHS = load_photographs()
BLOCK = in_a_block(PHOTOGRAPHS)
ONE_SIZE = in_a_block([image[:, :40, :40] for image in PHOTOGRAPHS])
IDS = np.array([3, 1, 4, 15, 9, 26])
FLIP, LARGE = HorizontalFlip(op="horizontal_flip"), CenterCrop(op="center_crop", size=(500, 701))
RRC = RandomResizedCrop(op="random_resized_crop", size=224)
LISTS: dict[str, tuple[TrainOp, ...]] = {
    "train": TRAIN,
    "eval": EVAL,
    "lenet": LENET,
    "everything": EVERYTHING,
    "imagenet": (RRC, FLIP),
    "bicubic": (RRC.model_copy(update={"interpolation": "bicubic"}), FLIP),
    "crops": (FLIP, CenterCrop(op="center_crop", size=(30, 44)), FLIP, LARGE),
    "padded": (RandomCrop(op="random_crop", size=48, padding=30), FLIP),
    "far": (RandomCrop(op="random_crop", size=(64, 48), padding=20), RandomCrop(op="random_crop", size=3, padding=40)),
    "flip first": (FLIP, RRC, Rotation(op="rotation", degrees=9.0)),
    "colors": (SCALE, ALL_OPS["equalize"], ALL_OPS["rand_augment"], FLIP),
}


@pytest.mark.parametrize("pixels", [1, 400_000, 2**40])
@pytest.mark.parametrize("block", [BLOCK, ONE_SIZE], ids=["sizes", "one size"])
@pytest.mark.parametrize("name", LISTS)
def test_chunks_of_boxes_give_the_images_of_one_whole_canvas(
    name: str, block: PackedImages, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_PIXELS", pixels)
    drawn_ops = draw_parameters(LISTS[name], block.sizes_B2, IDS, 1, 2)
    expected_BCHW = block.canvas()
    for fused in fuse_ops(block.sizes_B2, drawn_ops):
        expected_BCHW = apply_to_batch(expected_BCHW, fused)
    passes = plan_passes(block.sizes_B2, LISTS[name], drawn_ops)
    found_BCHW = apply_passes(block, passes)
    assert len(plan_chunks(passes)) == {1: 6, 2**40: 1}.get(pixels, len(plan_chunks(passes)))
    assert found_BCHW.dtype == expected_BCHW.dtype
    torch.testing.assert_close(found_BCHW, expected_BCHW, atol=0.05, rtol=0)  # levels of 255


def test_every_image_is_in_one_chunk_and_no_canvas_is_too_large() -> None:
    sizes_B2 = np.random.default_rng(0).integers(1, 4000, (500, 2))
    passes = plan_passes(sizes_B2, (RRC,), draw_parameters((RRC,), sizes_B2, np.arange(500), 0, 0))
    rows = plan_chunks(passes)
    assert sorted(np.concatenate(rows).tolist()) == list(range(500))
    for rows_G in rows:
        height, width = passes.boxes_B4[rows_G, 2:].max(axis=0)
        sides = height * width, 224 * height, 224 * width, 224**2
        assert len(rows_G) == 1 or len(rows_G) * max(sides) <= chunks.CHUNK_PIXELS


def test_a_batch_of_photographs_is_a_few_chunks_and_small_images_are_one_in_order() -> None:
    assert len(plan_chunks(passes_of(photographs(256), (RRC, FLIP)))) <= 4
    padded = RandomCrop(op="random_crop", size=32, padding=4)
    [rows] = plan_chunks(passes_of(np.tile([[32, 32]], (8192, 1)), (padded, FLIP)))
    assert rows.tolist() == list(range(8192))


def passes_of(sizes_B2: INT64, ops: tuple[TrainOp, ...]) -> chunks.Passes:
    return plan_passes(sizes_B2, ops, draw_parameters(ops, sizes_B2, np.arange(len(sizes_B2)), 0, 0))


def photographs(num: int) -> INT64:
    """Upright and wide ones."""
    return np.where(np.arange(num)[:, None] % 3 == 0, [[500, 375]], [[375, 500]])


def black(sizes_B2: INT64) -> PackedImages:
    starts_B, num_pixels = pack_side_by_side(sizes_B2)
    return PackedImages(torch.zeros(num_pixels, 3, dtype=torch.uint8), starts_B, sizes_B2)


def measured(sizes_B2: INT64, ops: tuple[TrainOp, ...]) -> tuple[int, int]:
    """Peak bytes as the function says and as torch takes them."""
    block, drawn_ops = black(sizes_B2), draw_parameters(ops, sizes_B2, np.arange(len(sizes_B2)), 1, 2)
    passes = plan_passes(sizes_B2, ops, drawn_ops)
    return peak_bytes(sizes_B2, ops, drawn_ops), peak_of(lambda: apply_passes(block, passes).float())


@pytest.mark.parametrize("pixels", [60_000, 250_000, 2**40])
@pytest.mark.parametrize("num", [1, 12])
@pytest.mark.parametrize("name", LISTS)
def test_peak_of_memory_is_what_the_sizes_say(
    name: str, num: int, pixels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunks, "CHUNK_PIXELS", pixels)
    said, found = measured(photographs(num), LISTS[name])
    assert found <= said * 1.01 + 20_000  # lines, starts and parameters, a few numbers an image
    assert said <= found * (3 if name == "colors" else 1.5)


@pytest.mark.parametrize("name", ALL_OPS)
def test_every_pixel_operation_keeps_to_its_bytes(name: str) -> None:
    ops: tuple[TrainOp, ...] = (SCALE, ALL_OPS[name])
    said, found = measured(np.tile([[64, 80]], (40, 1)), ops)
    assert found <= said


@pytest.mark.parametrize("large", [(2000, 3000), (3000, 4000)])
def test_one_large_image_among_256_stays_below_a_gibibyte(large: tuple[int, int]) -> None:
    """One canvas for all of them would be 1.5 and 3 billion pixels, of 44 bytes each."""
    sizes_B2 = photographs(256)
    sizes_B2[100] = large
    for ops in (TRAIN, EVAL, LISTS["imagenet"], (FLIP, *EVAL)):
        drawn_ops = draw_parameters(ops, sizes_B2, np.arange(256), 0, 0)
        assert peak_bytes(sizes_B2, ops, drawn_ops) < 2**30
    sizes_B2 = np.random.default_rng(0).permuted(np.tile(large, (256, 1)), axis=1)
    drawn_ops = draw_parameters(LISTS["imagenet"], sizes_B2, np.arange(256), 0, 0)
    assert peak_bytes(sizes_B2, LISTS["imagenet"], drawn_ops) < 2**30


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", LISTS)
def test_a_gpu_takes_no_more_than_the_sizes_say(name: str) -> None:
    sizes_B2, ops = photographs(64), LISTS[name]
    sizes_B2[10] = (2000, 3000)
    block, drawn_ops = black(sizes_B2).to(torch.device("cuda")), draw_parameters(ops, sizes_B2, np.arange(64), 1, 2)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    apply_passes(block, plan_passes(sizes_B2, ops, drawn_ops)).float()
    libraries = 2**26  # what CUDA's libraries take to work in
    assert torch.cuda.max_memory_allocated() - before <= peak_bytes(sizes_B2, ops, drawn_ops) * 1.05 + libraries
