"""Sizes and properties that follow from a recipe alone."""

from __future__ import annotations

from collections.abc import Iterable

from launcher.recipe.augment import RANDOM_OPS, EvalOp, TrainOp
from launcher.recipe.backbone import Backbone
from launcher.recipe.schema import Recipe

Size = tuple[int, int]
"""Height and width in pixels."""

OWN_NETWORKS = ("avatar_cnn", "lenet")
"""Networks without pretrained weights."""


def brings_transform(backbone: Backbone) -> bool:
    """Whether the weights define the eval transform and normalization: pretrained weights chosen by name do."""
    return backbone.weights_name is not None and backbone.name not in OWN_NETWORKS


def is_random(ops: Iterable[TrainOp | EvalOp]) -> bool:
    return any(op.op in RANDOM_OPS for op in ops)


def output_size(ops: Iterable[TrainOp | EvalOp]) -> Size | None:
    """Size of the images after `ops`; None where it depends on the image."""
    size: Size | None = None
    for op in ops:
        if op.op == "resize" and isinstance(op.size, int):
            size = None if size is None else (op.size * size[0] // min(size), op.size * size[1] // min(size))
        elif op.op in ("resize", "center_crop", "random_crop", "random_resized_crop"):
            size = (op.size, op.size) if isinstance(op.size, int) else op.size
    return size


def train_size(recipe: Recipe) -> Size:
    """Size of the training images that enter the network."""
    return _fixed_size(recipe.augment.train)


def eval_size(recipe: Recipe) -> Size:
    """Size of the validation and test images that enter the network."""
    return _fixed_size(recipe.augment.eval_ops)


def _fixed_size(ops: Iterable[TrainOp | EvalOp]) -> Size:
    size = output_size(ops)
    assert size is not None, "load_recipe refuses a recipe that leaves images of different sizes"
    return size
