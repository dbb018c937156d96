"""The evaluation transform of pretrained weights, written into the recipe. Downloads nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torchvision

from launcher.models import timm
from launcher.recipe.augment import CenterCrop, Channels, EvalOp, Resize
from launcher.recipe.backbone import Backbone
from launcher.recipe.facts import brings_transform
from launcher.recipe.fields import with_values
from launcher.recipe.schema import Recipe
from launcher.text import Say


@dataclass(frozen=True)
class Transform:
    """From a decoded image to the network's input. `notes`: differences from the transform of the weights."""

    ops: tuple[EvalOp, ...]
    mean: Channels
    std: Channels
    notes: tuple[str, ...] = ()


def fill_from_weights(recipe: Recipe, say: Say = lambda note: None) -> Recipe:
    """The recipe, with `augment.eval`, `mean` and `std` of its pretrained weights for those that are null.

    `say` gets the differences from the transform of the weights. Names must have been checked.
    """
    augment = recipe.augment
    if not brings_transform(recipe.backbone) or None not in (augment.eval, augment.mean, augment.std):
        return recipe
    transform = read_transform(recipe.backbone)
    if augment.eval is None:
        for note in transform.notes:
            say(note)
    found = {"eval": [op.model_dump(mode="json") for op in transform.ops], "mean": transform.mean, "std": transform.std}
    missing = {f"augment.{key}": value for key, value in found.items() if getattr(augment, key) is None}
    return with_values(recipe, missing)


def read_transform(backbone: Backbone) -> Transform:
    """The transform of the pretrained weights of `backbone`."""
    if backbone.name.startswith(timm.PREFIX):
        return _read_timm(backbone.name)
    preset = torchvision.models.get_model_weights(backbone.name)[backbone.weights].transforms()
    interpolation, notes = _nearest_interpolation(preset.interpolation.value)
    ops = (
        Resize(op="resize", size=preset.resize_size[0], interpolation=interpolation),
        CenterCrop(op="center_crop", size=preset.crop_size[0]),
    )
    return Transform(ops, tuple(preset.mean), tuple(preset.std), notes)


def _read_timm(name: str) -> Transform:
    """As in timm.data.transforms_imagenet_eval."""
    data = timm.read_timm_data(name)
    _, height, width = data["input_size"]
    scaled = (math.floor(height / data["crop_pct"]), math.floor(width / data["crop_pct"]))
    interpolation, notes = _nearest_interpolation(data["interpolation"])
    if data["crop_mode"] == "border":
        notes += (f"{name} was trained with whole images on a border; augment.eval crops their center instead",)
    is_side = scaled[0] == scaled[1] and data["crop_mode"] != "squash"
    ops = (
        Resize(op="resize", size=scaled[0] if is_side else scaled, interpolation=interpolation),
        CenterCrop(op="center_crop", size=height if height == width else (height, width)),
    )
    return Transform(ops, tuple(data["mean"]), tuple(data["std"]), notes)


def _nearest_interpolation(name: str) -> tuple[Literal["bilinear", "bicubic"], tuple[str, ...]]:
    if name == "bilinear":
        return "bilinear", ()
    note = f"the weights were trained with {name} interpolation; augment.eval has bicubic instead"
    return "bicubic", () if name == "bicubic" else (note,)
