from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from launcher.recipe.backbone import Backbone
from launcher.recipe.facts import Size, brings_transform, eval_size, is_random, output_size, train_size
from launcher.recipe.fields import with_values
from launcher.recipe.parse import PLAIN, load_recipe
from launcher.recipe.schema import Recipe
from tests.recipe.right import SHIPPED

RESIZE = {"op": "resize", "size": [20, 30]}
CROP = {"op": "center_crop", "size": 24}
SHORTER = {"op": "resize", "size": 32}
FLIP = {"op": "horizontal_flip"}


def with_ops(train: list[dict[str, Any]], evaluation: list[dict[str, Any]] | None = None) -> Recipe:
    return with_values(Recipe.from_plain(PLAIN), {"augment.train": train, "augment.eval": evaluation or [CROP]})


@pytest.mark.parametrize(
    ("name", "weights", "is_so"),
    [
        ("resnet18", "DEFAULT", True),
        ("resnet18", "IMAGENET1K_V1", True),
        ("timm/resnet18", "DEFAULT", True),
        ("resnet18", "none", False),
        ("resnet18", "my.pt", False),
        ("resnet18", "a/b", False),
        ("lenet", "DEFAULT", False),
        ("avatar_cnn", "none", False),
    ],
)
def test_pretrained_weights_chosen_by_name_bring_a_transform(name: str, weights: str, is_so: bool) -> None:
    assert brings_transform(Backbone(name=name, weights=weights)) is is_so


@pytest.mark.parametrize(
    ("ops", "size"),
    [
        ([CROP], (24, 24)),
        ([RESIZE], (20, 30)),
        ([SHORTER], None),
        ([FLIP], None),
        ([SHORTER, CROP], (24, 24)),
        ([CROP, SHORTER], (32, 32)),
        ([RESIZE, SHORTER], (32, 48)),
        ([RESIZE, FLIP, {"op": "rotation", "degrees": 10}], (20, 30)),
        ([{"op": "random_crop", "size": [8, 9], "padding": 4}], (8, 9)),
        ([{"op": "random_resized_crop", "size": 16}, {"op": "equalize"}], (16, 16)),
    ],
)
def test_output_size_is_known_from_the_first_crop_or_exact_resize_on(
    ops: list[dict[str, Any]], size: Size | None
) -> None:
    assert output_size(with_ops(ops).augment.train) == size


def test_no_operations_have_no_output_size() -> None:
    assert output_size(()) is None


def test_train_and_eval_have_sizes_of_their_own() -> None:
    recipe = with_ops([RESIZE], [SHORTER, CROP])
    assert (train_size(recipe), eval_size(recipe)) == ((20, 30), (24, 24))


def test_train_size_of_images_of_different_sizes_asserts() -> None:
    with pytest.raises(AssertionError, match="different sizes"):
        train_size(with_ops([SHORTER]))


@pytest.mark.parametrize(
    ("ops", "is_so"),
    [
        ([CROP, RESIZE, SHORTER], False),
        ([CROP, FLIP], True),
        ([{"op": "random_crop", "size": 8}], True),
        ([{"op": "equalize", "p": 1.0}], True),
    ],
)
def test_random_operations_are_found(ops: list[dict[str, Any]], is_so: bool) -> None:
    recipe = with_ops(ops)
    assert is_random(recipe.augment.train) is is_so
    assert not is_random(recipe.augment.eval_ops)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_have_one_train_size(path: Path) -> None:
    assert min(train_size(load_recipe(path).recipe)) >= 1
