"""The eval transform that a recipe takes over from its weights, against torchvision's own and timm's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from launcher.augment.execute import build_augment
from launcher.augment.images import packed_images_of
from launcher.models import transform
from launcher.models.timm import read_timm_data
from launcher.models.transform import Transform, fill_from_weights, read_transform
from launcher.recipe.augment import CenterCrop, Resize
from launcher.recipe.backbone import Backbone
from tests.recipe.right import load

NO_EVAL = ("  eval:\n    - {op: resize, size: [32, 32]}\n  mean: [0.5, 0.5, 0.5]\n", "")
ENTRIES = [
    (name, entry)
    for name in torchvision.models.list_models(module=torchvision.models)
    for entry in torchvision.models.get_model_weights(name).__members__
]
PRESETS = {key: torchvision.models.get_model_weights(key[0])[key[1]].transforms() for key in ENTRIES}


def family(name: str, entry: str) -> tuple[Any, ...]:
    preset = PRESETS[name, entry]
    return (preset.interpolation, preset.resize_size[0], preset.crop_size[0], *preset.mean, *preset.std)


FAMILIES = list({family(*key): key for key in ENTRIES}.values())
"""One entry of weights for each transform."""


def photographs() -> list[Tensor]:
    """Two uint8 images_CHW: 427 x 640, and 333 x 250, which every size above enlarges."""
    china, flower = load_sample_images().images
    small = np.asarray(Image.fromarray(flower).resize((250, 333)))
    return [torch.tensor(pixels).permute(2, 0, 1) for pixels in (china, small)]


LEVELS = 2.01
"""Pillow, and our operations on the CPU, round to whole levels of 255 after each of the two passes of a resize, each in
its own way: results are at most so many levels apart. Measured: 1 bilinear, 2 bicubic."""


def assert_equal(found: Transform, theirs_of: Callable[[Image.Image], Tensor]) -> None:
    """Compare on two photographs, which the other transform gets as Pillow images, as for the weights."""
    levels_C11 = 255 * torch.tensor(found.std)[:, None, None]
    for image_CHW in photographs():
        ours, theirs = apply_ours(found, image_CHW), theirs_of(to_pil_image(image_CHW))
        assert ours.shape == theirs.shape
        assert float(((ours - theirs) * levels_C11).abs().max()) < LEVELS


def apply_ours(found: Transform, image_CHW: Tensor) -> Tensor:
    augment = build_augment(found.ops, found.mean, found.std)
    images_BCHW: Tensor = augment(packed_images_of(image_CHW[None]), np.zeros(1, dtype=np.int64), 0, 0)
    return images_BCHW[0]


@pytest.mark.parametrize(("name", "entry"), ENTRIES)
def test_sizes_and_normalisation_are_those_of_every_weights_entry(name: str, entry: str) -> None:
    preset, found = PRESETS[name, entry], read_transform(Backbone(name=name, weights=entry))
    resize, crop = found.ops
    assert isinstance(resize, Resize)
    assert ([resize.size], [crop.size]) == (preset.resize_size, preset.crop_size)
    assert resize.interpolation == preset.interpolation.value
    assert (found.mean, found.std) == (tuple(preset.mean), tuple(preset.std))
    assert found.notes == ()


def test_all_torchvision_weights_are_tested() -> None:
    assert len(PRESETS) > 170
    assert len(FAMILIES) > 25


@pytest.mark.parametrize(("name", "entry"), FAMILIES)
def test_pixels_are_those_of_the_weights_own_transform(name: str, entry: str) -> None:
    assert_equal(read_transform(Backbone(name=name, weights=entry)), PRESETS[name, entry])


TIMM = [
    *("resnet18.a1_in1k", "resnet18.tv_in1k", "vit_base_patch16_224.augreg_in21k", "resnet18"),
    *("convnext_atto.d2_in1k", "tf_efficientnet_b0.in1k", "beit_base_patch16_384.in22k_ft_in22k_in1k"),
    *("vit_base_patch16_siglip_224.webli", "vit_large_patch16_sapiens2.fb", "volo_d4_448.sail_in1k"),
]
"""Both interpolations, squashed, not square, and crops larger than the resized image."""


@pytest.mark.parametrize("name", TIMM)
def test_pixels_are_those_of_timms_own_transform(name: str) -> None:
    timm = pytest.importorskip("timm")
    config = timm.get_pretrained_cfg(name).to_dict()
    theirs_of = timm.data.create_transform(**timm.data.resolve_data_config({}, pretrained_cfg=config))
    found = read_transform(Backbone(name=f"timm/{name}", weights="DEFAULT"))
    assert found.notes == ()
    assert_equal(found, theirs_of)


def test_differences_from_timms_transform_are_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    data = {**read_timm_data("timm/resnet18"), "crop_mode": "border", "interpolation": "lanczos"}
    monkeypatch.setattr("launcher.models.timm.read_timm_data", lambda name: data)
    found = read_transform(Backbone(name="timm/resnet18", weights="DEFAULT"))
    assert found.notes == (
        "the weights were trained with lanczos interpolation; augment.eval has bicubic instead",
        "timm/resnet18 was trained with whole images on a border; augment.eval crops their center instead",
    )
    assert found.ops[0] == Resize(op="resize", size=235, interpolation="bicubic")


def test_null_values_are_filled(tmp_path: Path) -> None:
    recipe = fill_from_weights(load(tmp_path, NO_EVAL).recipe)
    assert recipe.augment.eval == (
        Resize(op="resize", size=256, interpolation="bilinear"),
        CenterCrop(op="center_crop", size=224),
    )
    assert recipe.augment.normalisation((0, 0, 0), (1, 1, 1)) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert fill_from_weights(recipe) == recipe


def test_values_of_the_recipe_are_kept(tmp_path: Path) -> None:
    recipe = fill_from_weights(load(tmp_path, overrides=("augment.std=dataset",)).recipe)
    assert recipe.augment.eval == (Resize(op="resize", size=(32, 32)),)
    assert recipe.augment.normalisation((0.1, 0.2, 0.3), (1, 2, 3)) == ((0.5, 0.5, 0.5), (1, 2, 3))


@pytest.mark.parametrize("weights", ["none", "some.pt", "a/b"])
def test_other_weights_leave_the_normalisation_to_the_data(weights: str, tmp_path: Path) -> None:
    recipe = load(tmp_path, ("  mean: [0.5, 0.5, 0.5]\n", ""), overrides=(f"backbone.weights={weights}",)).recipe
    assert (recipe.augment.mean, recipe.augment.std) == ("dataset", "dataset")
    assert fill_from_weights(recipe) == recipe


def test_notes_are_shown_only_when_eval_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = transform.read_transform
    monkeypatch.setattr(transform, "read_transform", lambda backbone: replace(read(backbone), notes=("near",)))
    notes: list[str] = []
    fill_from_weights(load(tmp_path).recipe, notes.append)
    assert notes == []
    fill_from_weights(load(tmp_path, NO_EVAL).recipe, notes.append)
    assert notes == ["near"]
