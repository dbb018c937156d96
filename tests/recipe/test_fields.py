from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from launcher.recipe.backbone import Backbone, ExceptLast, FreezeSchedule
from launcher.recipe.duration import Duration
from launcher.recipe.fields import with_values
from launcher.recipe.parse import PLAIN, load_recipe
from launcher.recipe.schema import Recipe, Train
from tests.recipe.right import SHIPPED, load


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_with_no_values_a_shipped_recipe_is_the_same(path: Path) -> None:
    recipe = load_recipe(path).recipe
    assert with_values(recipe, {}) == recipe


def test_values_change_and_the_original_stays(tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    changed = with_values(recipe, {"run.dir": "here", "log.wandb.tags": ["x"], "data.split": {"train": 1}})
    assert (changed.run.dir, changed.log.wandb.tags, changed.data.split) == ("here", ("x",), {"train": 1})
    assert (recipe.run.dir, recipe.log.wandb.tags) == (None, ("a", "b"))
    restored = with_values(
        changed, {"run.dir": None, "log.wandb.tags": ["a", "b"], "data.split": {"train": 0.8, "valid": "rest"}}
    )
    assert restored == recipe


@pytest.mark.parametrize(
    ("text", "duration"),
    [("3ep", Duration(3, "ep")), ("5000st", Duration(5000, "st")), ("7im", Duration(7, "im")), (2, Duration(2, "ep"))],
)
def test_duration_is_read_as_in_yaml(text: object, duration: Duration) -> None:
    section = with_values(Train(epochs=Duration(1, "ep"), global_batch=8), {"epochs": text})
    assert section.epochs == duration
    assert with_values(section, {}) == section


def test_nested_sections_are_read_as_in_yaml() -> None:
    stages = [
        {"at": 0, "freeze": "backbone"},
        {"at": "5st", "freeze": {"except_last": 2}},
        {"at": "9st", "freeze": ["fc"]},
    ]
    backbone = with_values(Backbone(name="lenet"), {"freeze": {"schedule": stages}, "head.hidden": [8, 4]})
    assert isinstance(backbone.freeze, FreezeSchedule)
    assert [stage.at for stage in backbone.stages] == [Duration(0, "ep"), Duration(5, "st"), Duration(9, "st")]
    assert [stage.freeze for stage in backbone.stages] == ["backbone", ExceptLast(except_last=2), ("fc",)]
    assert backbone.head != "keep"
    assert backbone.head.hidden == (8, 4)
    assert with_values(backbone, {}) == backbone


def test_section_that_is_null_is_created(tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    assert recipe.augment.mixup is None
    mixed = with_values(recipe, {"augment.mixup.alpha": 0.2})
    assert mixed.augment.mixup is not None
    assert mixed.augment.mixup.alpha == 0.2


@pytest.mark.parametrize(
    ("values", "path", "kind"),
    [
        ({"train.epoch": 3}, ("train", "epoch"), "extra_forbidden"),
        ({"trian.epochs": 3}, ("trian",), "extra_forbidden"),
        ({"log.wandb.mod": "offline"}, ("log", "wandb", "mod"), "extra_forbidden"),
        ({"train.global_batch": "32"}, ("train", "global_batch"), "int_type"),
        ({"train.global_batch": 0}, ("train", "global_batch"), "greater_than_equal"),
        ({"train.epochs": "3min"}, ("train", "epochs"), "value_error"),
        ({"optim": {"name": "sgd"}}, ("optim", "sgd", "lr"), "missing"),
        ({"strategy.precision": None}, ("strategy", "precision"), "literal_error"),
    ],
)
def test_misspelt_key_or_wrong_value_raises(values: dict[str, Any], path: tuple[str, ...], kind: str) -> None:
    with pytest.raises(ValidationError) as raised:
        with_values(Recipe.from_plain(PLAIN), values)
    assert [(error["loc"], error["type"]) for error in raised.value.errors()] == [(path, kind)]
