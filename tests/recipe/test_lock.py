from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import RunError
from launcher.models.transform import fill_from_weights
from launcher.recipe.lock import LOCK_NAME, find_differences, flatten, is_allowed, read_lock, write_lock
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from tests.recipe.right import SHIPPED, load


def locked(folder: Path, recipe: Recipe) -> Path:
    write_lock(folder, recipe, "run 1234")
    return folder / LOCK_NAME


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_lock_of_a_shipped_recipe_is_the_same_recipe(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path).recipe
    assert load_recipe(locked(tmp_path, recipe)).recipe == recipe


@pytest.mark.parametrize(
    "overrides",
    [
        ("data.classes=['08', '1e3', 'no', 'null', '2020-01-01', '0x1f', '']",),
        ("train.epochs=1.2345678901ep", "checkpoint.every=1234567st", "train.evaluate_every=0.00001"),
        ("optim.lr=1e-10", "optim.weight_decay=5e-324", "optim.clip_norm=1e300"),
        ("optim={name: adam, lr: 1, beta1: 0}",),
        ("schedule={name: onecycle}", "checkpoint.every=null"),
        ("augment.mean=dataset", "backbone.head={hidden: [8, 4], activation: tanh}"),
        ("data={dir: 'a folder: with #signs'}",),
        ("log.wandb.project='naïve \\u2028'",),
    ],
)
def test_lock_is_the_same_recipe(overrides: tuple[str, ...], tmp_path: Path) -> None:
    recipe = load(tmp_path, overrides=overrides).recipe
    path = locked(tmp_path, recipe)
    assert load_recipe(path).recipe == recipe
    assert find_differences(read_lock(tmp_path), recipe) == {}
    assert locked(tmp_path, load_recipe(path).recipe).read_text() == path.read_text()


def test_lock_has_the_transform_of_the_weights(tmp_path: Path) -> None:
    eval_and_mean = ("  eval:\n    - {op: resize, size: [32, 32]}\n  mean: [0.5, 0.5, 0.5]\n", "")
    recipe = fill_from_weights(load(tmp_path, eval_and_mean).recipe)
    path = locked(tmp_path, recipe)
    augment = read_lock(tmp_path)["augment"]
    assert augment["eval"] == [
        {"op": "resize", "size": 256, "interpolation": "bilinear"},
        {"op": "center_crop", "size": 224},
    ]
    assert (augment["mean"], augment["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    again = fill_from_weights(load(tmp_path, eval_and_mean).recipe)
    assert find_differences(read_lock(tmp_path), again) == {}
    assert fill_from_weights(load_recipe(path).recipe) == recipe


def test_lock_has_every_key_below_its_header(tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    write_lock(tmp_path, recipe, "run 1234\ndata abcd")
    text = (tmp_path / LOCK_NAME).read_text()
    assert text.startswith("# run 1234\n# data abcd\nrun:\n  name: recipe\n")
    assert flatten(read_lock(tmp_path)).keys() == flatten(recipe.model_dump(mode="json")).keys()
    assert "patience: null\n" in text


def test_differences_name_both_values(tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    locked(tmp_path, recipe)
    changed = load(
        tmp_path,
        overrides=("run.seed=4", "train.epochs=5", "run.dir=elsewhere", "log.wandb.tags=[c]", "data.split=null"),
    ).recipe
    differences = find_differences(read_lock(tmp_path), changed)
    assert differences.pop("data.dir")[0] == recipe.data.dir
    assert differences == {
        "run.seed": (3, 4),
        "data.split.train": (0.8, None),
        "data.split.valid": ("rest", None),
        "train.epochs": ("3ep", "5ep"),
        "log.wandb.tags": (["a", "b"], ["c"]),
    }


def test_other_optimizer_differs_in_its_keys(tmp_path: Path) -> None:
    locked(tmp_path, load(tmp_path).recipe)
    changed = load(tmp_path, overrides=("optim={name: adam, lr: 0.1}",)).recipe
    assert find_differences(read_lock(tmp_path), changed) == {
        "optim.name": ("sgd", "adam"),
        "optim.momentum": (0.9, None),
        "optim.nesterov": (False, None),
        "optim.beta1": (None, 0.9),
        "optim.beta2": (None, 0.999),
        "optim.eps": (None, 1e-8),
    }


@pytest.mark.parametrize(
    ("key", "allowed", "is_so"),
    [
        ("train.epochs", ["train.epochs"], True),
        ("train.epochs", ["run", "train"], True),
        ("log.wandb.mode", ["log.wandb"], True),
        ("train.epochs", ["train.epoch"], False),
        ("train.epochs", ["tra"], False),
        ("train.epochs", ["epochs"], False),
        ("train.epochs", ["train.epochs.st"], False),
        ("train.epochs", [""], False),
        ("train.epochs", [], False),
    ],
)
def test_key_or_its_section_is_allowed(key: str, allowed: list[str], is_so: bool) -> None:
    assert is_allowed(key, allowed) is is_so


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read"),
        (b"run: {", "cannot be read"),
        (b"\xff", "cannot be read"),
        (b"- a", "not a recipe"),
        (b"", "not a recipe"),
    ],
)
def test_damaged_lock_is_refused_with_what_to_do(content: bytes | None, what: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / LOCK_NAME).write_bytes(content)
    with pytest.raises(RunError, match=rf"recipe.lock.yaml: {what}.*; omit this run, or train it again with --fresh$"):
        read_lock(tmp_path)


def test_flatten_joins_keys_with_dots() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": [1, {"e": 2}]}}, "f": None}) == {
        "a.b": 1,
        "a.c.d": [1, {"e": 2}],
        "f": None,
    }
