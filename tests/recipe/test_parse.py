from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from launcher.errors import RecipeError
from launcher.recipe.duration import Duration
from launcher.recipe.messages import explain
from launcher.recipe.optim import Cosine, Sgd
from launcher.recipe.parse import PLAIN, load_recipe
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import read_yaml
from tests.recipe.right import QUICK, RIGHT, load, write

MANGLED = ["{}", "[]", "null", "3", "-1.5", "x", "true", "[[1]]", "{name: x}", "[{op: y}]", ".nan", "''"]
PATHS = [
    "run",
    "run.name",
    "backbone",
    "backbone.head.hidden",
    "data",
    "data.split",
    "data.split.train",
    "data.classes",
    "augment",
    "augment.train",
    "augment.train.0",
    "augment.train.0.size",
    "augment.train.0.op",
    "augment.mean",
    "loss",
    "loss.name",
    "optim.name",
    "schedule",
    "schedule.warmup",
    "train",
    "train.epochs",
    "strategy.precision",
    "checkpoint.every",
    "log.wandb",
    "log.wandb.tags",
    "what.is.this",
]


def test_right_recipe_is_read(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    recipe = loaded.recipe
    assert loaded.file == str(tmp_path / "recipe.yaml")
    assert loaded.overridden == frozenset()
    assert isinstance(recipe.optim, Sgd)
    assert (recipe.optim.lr, recipe.optim.momentum) == (0.1, 0.9)
    assert recipe.schedule == Cosine(name="cosine", warmup=Duration(1, "ep"))
    assert recipe.data.split == {"train": 0.8, "valid": "rest"}
    assert recipe.augment.train[0].op == "resize"
    assert recipe.augment.mean == (0.5, 0.5, 0.5)
    assert recipe.log.wandb.tags == ("a", "b")


def test_overrides_are_yaml_values(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        overrides=(
            "train.epochs=5000st",
            "run.name=null",
            "run.dir=runs/a=b",
            "augment.train.1.degrees=7.5",
            "log.wandb.tags=[x, 'y z']",
            "checkpoint.every=2",
            "train.patience=",
        ),
    )
    recipe = loaded.recipe
    assert recipe.train.epochs == Duration(5000, "st")
    assert recipe.run.dir == "runs/a=b"
    assert recipe.augment.train[1].model_dump() == {"op": "rotation", "degrees": 7.5, "interpolation": "bilinear"}
    assert recipe.log.wandb.tags == ("x", "y z")
    assert recipe.checkpoint.every == Duration(2, "ep")
    assert recipe.train.patience is None
    assert loaded.overridden >= {"checkpoint.every", "augment.train.1.degrees"}


def test_override_creates_missing_sections(tmp_path: Path) -> None:
    recipe = load(tmp_path, ("log:\n  wandb: {mode: offline, tags: [a, b]}\n", ""), overrides=("log.wandb.group=g",))
    assert recipe.recipe.log.wandb.group == "g"


def test_override_fills_a_section_that_is_empty(tmp_path: Path) -> None:
    changes = ("  precision: bf16\n", "")
    with pytest.raises(RecipeError, match="strategy: should be a section with keys, not null"):
        load(tmp_path, changes)
    assert load(tmp_path, changes, overrides=("strategy.precision=no",)).recipe.strategy.precision == "no"


def test_override_replaces_a_wrong_value_of_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, ("lr: 0.1", "lr: fast"), overrides=("optim.lr=0.5",)).recipe.optim.lr == 0.5


def test_last_of_two_overrides_wins(tmp_path: Path) -> None:
    assert load(tmp_path, overrides=("run.seed=1", "run.seed=2")).recipe.run.seed == 2


def test_recipe_is_frozen(tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.train.epochs = Duration(1, "ep")


def test_stand_in_sections_are_right() -> None:
    assert Recipe.from_plain(PLAIN).backbone.name == "lenet"


def contradictions_beside_wrong_keys(data: dict[str, Any], path: Path) -> list[str]:
    """The lines reported for `data` beside those of the schema, if the schema finds anything."""
    try:
        Recipe.from_plain(data)
    except ValidationError as error:
        schema_finds = {problem.path for problem in explain(error, data).problems}
    else:
        return []
    path.write_text(json.dumps(data))
    with pytest.raises(RecipeError) as raised:
        load_recipe(path)
    return [line for line in raised.value.lines if line.split(": ")[1] not in schema_finds]


def keys_of(data: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every section in `data` with each of its keys."""
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        if isinstance(data, dict):
            yield data, key
        if isinstance(value, dict | list):
            yield from keys_of(value)


@pytest.mark.parametrize("wrong", [None, 3, -1.5, "x", [[1]], {"name": "x"}], ids=repr)
def test_one_wrong_value_in_a_right_recipe_contradicts_nothing(wrong: object, tmp_path: Path) -> None:
    count = len(list(keys_of(read_yaml(RIGHT)[0])))
    assert count > 30
    for i in range(count):
        data, _ = read_yaml(RIGHT)
        section, key = list(keys_of(data))[i]
        section[key] = wrong
        assert contradictions_beside_wrong_keys(data, tmp_path / "recipe.yaml") == [], (key, wrong)


@pytest.mark.parametrize("name", ["{}x", "x{}", "another"])
def test_one_wrong_key_in_a_right_recipe_contradicts_nothing(name: str, tmp_path: Path) -> None:
    for i in range(len(list(keys_of(read_yaml(RIGHT)[0])))):
        data, _ = read_yaml(RIGHT)
        section, key = list(keys_of(data))[i]
        section[name.format(key)] = section.pop(key)
        assert contradictions_beside_wrong_keys(data, tmp_path / "recipe.yaml") == [], key


@QUICK
@given(st.lists(st.tuples(st.sampled_from(PATHS), st.sampled_from(MANGLED)), min_size=1, max_size=4))
@example([("augment.train.0.size", "[3]")])
@example([("data.split", "[]"), ("train", "null")])
def test_any_wrong_values_are_one_recipe_error(tmp_path: Path, changes: list[tuple[str, str]]) -> None:
    try:
        load_recipe(write(tmp_path), [f"{path}={value}" for path, value in changes])
    except RecipeError as error:
        lines = error.lines
    else:
        lines = ["", "right"]
    assert lines
    assert len(set(lines)) == len(lines)
    assert all("Input should" not in line and "Tuple" not in line for line in lines)


@QUICK
@given(start=st.integers(0, len(RIGHT)), length=st.integers(1, 40))
def test_file_with_a_hole_is_right_or_a_recipe_error(tmp_path: Path, start: int, length: int) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RIGHT[:start] + RIGHT[start + length :])
    try:
        recipe: Recipe | None = load_recipe(path).recipe
    except RecipeError as error:
        recipe = None
        places = [line.startswith(f"{path}:") for line in error.lines]
    assert recipe is not None or (places and all(places))
