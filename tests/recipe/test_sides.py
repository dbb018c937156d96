"""Messages about networks that take one size of image only, and about heads and weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import RecipeError
from launcher.recipe.parse import load_recipe

RECIPE = Path(__file__).parent.parent.parent / "recipes" / "resnet50_caltech.yaml"
"""224 x 224 pixels, a head with a hidden layer."""


def problems(*overrides: str) -> list[str]:
    try:
        load_recipe(RECIPE, overrides)
    except RecipeError as error:
        return [line.split(": ", 1)[1] for line in error.lines]
    return []


@pytest.mark.parametrize(("name", "side"), [("inception_v3", 299), ("lenet", 32), ("avatar_cnn", 64)])
def test_another_size_of_image_is_a_problem(name: str, side: int) -> None:
    what = f"{name} takes {side} x {side} pixels, not 224 x 224; crop or resize to {side}"
    plain = (f"backbone.name={name}", "backbone.weights=none")
    assert problems(*plain) == [f"augment.train: {what}", f"augment.eval: {what}"]
    right = (f"augment.train.3.size={side}", f"augment.eval.1.size={side}")
    assert problems(*plain, *right) == []
    assert problems(*plain, right[0]) == [f"augment.eval: {what}"]


@pytest.mark.parametrize(
    ("ops", "size"),
    [
        ("[{op: random_resized_crop, size: 299}, {op: rotation, degrees: 5}]", None),
        ("[{op: center_crop, size: 400}, {op: resize, size: [299, 299]}]", None),
        ("[{op: random_crop, size: [299, 300]}, {op: horizontal_flip}]", "299 x 300"),
        ("[{op: random_crop, size: 299}, {op: resize, size: [64, 64]}]", "64 x 64"),
    ],
)
def test_the_last_operation_with_a_size_decides(ops: str, size: str | None) -> None:
    found = problems("backbone.name=inception_v3", "augment.eval.1.size=299", f"augment.train={ops}")
    assert [line.split("not ")[1].split(";")[0] for line in found] == ([] if size is None else [size])


def test_other_networks_take_any_size() -> None:
    assert problems("backbone.name=googlenet", "augment.eval.1.size=100") == []


@pytest.mark.parametrize("name", ["lenet", "avatar_cnn"])
def test_networks_without_pretrained_weights_take_a_file(name: str) -> None:
    side = {"lenet": 32, "avatar_cnn": 64}[name]
    right = (f"backbone.name={name}", f"augment.train.3.size={side}", f"augment.eval.1.size={side}")
    assert problems(*right) == [f"backbone.weights: {name} has no pretrained weights; write none"]
    assert problems(*right, "backbone.weights=mine.pt") == []


def test_a_head_is_a_section_or_the_word_keep() -> None:
    assert problems("backbone.head=keep") == []
    (line,) = problems("backbone.head=kep")
    assert line == "backbone.head: should be a section with keys or keep, not \"kep\"; did you mean 'keep'?"


@pytest.mark.parametrize(
    ("weights", "file"),
    [
        ("w.pt", True),
        ("w.pth", True),
        ("w.safetensors", True),
        ("folder/w", True),
        ("DEFAULT", False),
        ("IMAGENET1K_V1", False),
        ("none", False),
    ],
)
def test_weights_with_a_suffix_or_a_folder_are_a_file(weights: str, file: bool) -> None:
    backbone = load_recipe(RECIPE, [f"backbone.weights={weights}"]).recipe.backbone
    assert backbone.weights_file == (weights if file else None)
