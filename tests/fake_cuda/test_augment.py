"""Augmentation and mixing on fake CUDA tensors: one device, no host sync, nothing large from pageable memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment import chunks
from launcher.augment.arrays import INT64
from launcher.augment.chunks import apply_passes, plan_passes
from launcher.augment.execute import build_augment
from launcher.augment.images import PackedImages, pack_side_by_side
from launcher.augment.memory import peak_bytes
from launcher.augment.mix import build_mix
from launcher.augment.ops_table import DRAWS, draw_parameters
from launcher.recipe.augment import Augment as AugmentSection
from launcher.recipe.augment import Mixing, TrainOp
from tests.augment.allocations import peak_of
from tests.augment.op_lists import LENET, TRAIN
from tests.augment.test_chunks import LISTS, photographs
from tests.augment.test_pixels import ALL_OPS, SCALE, op_of
from tests.fake_cuda.harness import CUDA, FakeCuda, fake_cuda

PHOTOGRAPHS = photographs(256)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SETTINGS = {name: {"size": 64} for name in ("resize", "center_crop", "random_crop", "random_resized_crop")}
EACH = {
    name: (SCALE, ALL_OPS[name] if name in ALL_OPS else op_of(name, SETTINGS.get(name, {})))
    for name in DRAWS
    if name != "rotation"
}
EACH["rotation"] = (SCALE, op_of("rotation", {"degrees": 9.0}))
OP_LISTS: dict[str, tuple[TrainOp, ...]] = {**EACH, **LISTS}


def augment_on_cuda(ops: tuple[TrainOp, ...], sizes_B2: INT64 = PHOTOGRAPHS) -> FakeCuda:
    """Images of these sizes, sent and augmented."""
    starts_B, num_pixels = pack_side_by_side(sizes_B2)
    with fake_cuda() as seen:
        pixels_PC = torch.empty(num_pixels, 3, dtype=torch.uint8, pin_memory=True)
        images = PackedImages(pixels_PC, starts_B, sizes_B2).to(CUDA)
        augment = build_augment(ops, MEAN, STD)
        with seen.may_wait("the quantiles of noise, once per process"):
            images_BChw = augment(images, np.arange(len(sizes_B2)), 1, 2)
        assert images_BChw.device == CUDA
        assert images_BChw.dtype == torch.float32
        assert len(images_BChw) == len(sizes_B2)
    return seen


@pytest.mark.parametrize("name", OP_LISTS)
def test_augmentation_keeps_to_the_gpu_and_never_waits(name: str) -> None:
    seen = augment_on_cuda(OP_LISTS[name])
    assert len(seen.waits) == (name == "gaussian_noise")


def test_thousands_of_small_images_do_not_wait_either() -> None:
    sizes_B2 = np.tile([[32, 32]], (8192, 1))
    for ops in (LENET, LISTS["padded"], EACH["affine"], EACH["random_erasing"]):
        seen = augment_on_cuda(ops, sizes_B2)
        assert seen.waits == []
        assert any(copy.is_pinned for copy in seen.copies[1:])


def test_parameters_of_a_batch_are_a_few_small_copies() -> None:
    """Lines of 224 pixels of 256 images were 458,752 bytes, twice a pass."""
    pixels, *parameters = augment_on_cuda(LISTS["imagenet"]).copies
    assert pixels.is_pinned
    assert sum(copy.num_bytes for copy in parameters) < 2**16


@pytest.mark.parametrize("methods", [("mixup",), ("cutmix",), ("mixup", "cutmix")])
def test_mixing_keeps_to_the_gpu_and_never_waits(methods: tuple[str, ...]) -> None:
    mixup, cutmix = (Mixing(alpha=0.5) if name in methods else None for name in ("mixup", "cutmix"))
    mix = build_mix(AugmentSection(train=TRAIN, mixup=mixup, cutmix=cutmix), 1000)
    assert mix is not None
    for batch in (2, 256, 8192):
        with fake_cuda() as seen:
            images_BCHW = torch.empty(batch, 3, 32, 32, device=CUDA)
            labels_B = torch.empty(batch, dtype=torch.int64, device=CUDA)
            mixed: tuple[Tensor, Tensor] = mix(images_BCHW, labels_B, np.arange(batch), 1, 2)
            assert [each.device for each in mixed] == [CUDA, CUDA]
        assert seen.waits == []


def test_a_batch_in_many_chunks_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_PIXELS", 2**21)
    for name in ("train", "everything", "flip first"):
        assert augment_on_cuda(LISTS[name]).waits == []


@pytest.mark.parametrize("name", ["train", "eval", "imagenet"])
def test_one_large_image_among_256_takes_less_than_a_gibibyte_at_full_size(name: str) -> None:
    """On one canvas for the whole batch these lists take 25 GiB."""
    sizes_B2, ops = PHOTOGRAPHS.copy(), LISTS[name]
    sizes_B2[100] = (2000, 3000)
    starts_B, num_pixels = pack_side_by_side(sizes_B2)
    drawn_ops = draw_parameters(ops, sizes_B2, np.arange(256), 1, 2)
    with fake_cuda():
        images = PackedImages(torch.empty(num_pixels, 3, dtype=torch.uint8, device=CUDA), starts_B, sizes_B2)
        found = peak_of(lambda: apply_passes(images, plan_passes(sizes_B2, ops, drawn_ops)).float())
    said = peak_bytes(sizes_B2, ops, drawn_ops)
    assert found <= said * 1.01 <= 2**30
    assert said <= found * 1.5
