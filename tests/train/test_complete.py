"""What the networks' libraries add to a recipe, against torchvision's own words."""

from __future__ import annotations

import pytest
import torchvision

from launcher.errors import RecipeError
from launcher.recipe.parse import load_recipe
from launcher.train.complete import ask_libraries
from tests.harness.runs import DIGITS

BACKBONE = "backbone={name: shufflenet_v2_x0_5, weights: DEFAULT}"
TRANSFORM = "augment={train: [{op: resize, size: [32, 32]}]}"


def test_the_transform_of_pretrained_weights_is_written_out() -> None:
    recipe = ask_libraries(load_recipe(DIGITS, [BACKBONE, TRANSFORM]), pytest.fail)
    preset = torchvision.models.get_model_weights("shufflenet_v2_x0_5")["DEFAULT"].transforms()
    assert recipe.augment.mean == tuple(preset.mean)
    assert recipe.augment.std == tuple(preset.std)
    assert [op.op for op in recipe.augment.eval_ops] == ["resize", "center_crop"]
    assert [op.size for op in recipe.augment.eval_ops] == [preset.resize_size[0], preset.crop_size[0]]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("backbone.name=resnet18x", r"backbone\.name: .*resnet18"),
        ("backbone={name: resnet18, weights: IMAGENET1K_V9}", r"backbone\.weights: .*IMAGENET1K_V1"),
        ("backbone={name: lenet, freeze: {except_last: 99}}", r"backbone\.freeze: .*"),
    ],
)
def test_names_that_no_library_has_are_refused(override: str, expected: str) -> None:
    with pytest.raises(RecipeError, match=expected):
        ask_libraries(load_recipe(DIGITS, [override]), pytest.fail)
