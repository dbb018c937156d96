from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from launcher.recipe.fields import with_values
from launcher.recipe.lint import find_contradictions
from launcher.recipe.parse import load_recipe
from launcher.recipe.plan import make_plan
from launcher.recipe.resolve import debug_recipe, pack_options, probe_recipe, resolve_recipe
from tests.recipe.right import SHIPPED, load


def folder_of(tmp_path: Path, *overrides: str) -> str:
    return str(load(tmp_path, overrides=overrides).recipe.data.dir)


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("lenet_digits.yaml", "lenet_digits"),
        ("my run (2).yml", "my-run-2-"),
        ("-._x.yaml", "x"),
        ("é.yaml", "run"),
        ("a.b.yaml", "a.b"),
    ],
)
def test_run_is_named_after_its_file(file: str, name: str, tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    named = resolve_recipe(with_values(recipe, {"run.name": None}), file)
    assert named.run.name == name
    assert with_values(named, {}) == named


def test_given_name_and_folder_are_kept(tmp_path: Path) -> None:
    recipe = load(tmp_path, overrides=("run.name=mine", "data.dir=here")).recipe
    assert (recipe.run.name, recipe.data.dir) == ("mine", "here")


def test_folder_of_the_data_names_the_source(tmp_path: Path) -> None:
    assert re.fullmatch(r"data/digits-[0-9a-f]{8}", folder_of(tmp_path))
    assert re.fullmatch(r"data/imagefolder-a-b-c-[0-9a-f]{8}", folder_of(tmp_path, "data.source=imagefolder:/a/b c/"))
    long = folder_of(tmp_path, f"data.source=imagefolder:/{'x' * 500}")
    assert len(Path(long).name) <= 69


PACKING = [
    "data.source=synthetic:10x8",
    "data.split={train: 0.7, valid: rest}",
    "data.split=null",
    "data.split_seed=1",
    "data.classes=['1', '2']",
    "data.classes=['2', '1']",
    "data.max_side=64",
    "data.images_per_shard=10",
]


def test_every_packing_option_changes_the_folder(tmp_path: Path) -> None:
    folders = [folder_of(tmp_path), *(folder_of(tmp_path, each) for each in PACKING)]
    assert len(set(folders)) == len(folders)


@pytest.mark.parametrize(
    "override",
    ["data.workers=3", "data.lanes=8", "data.last_batch=wrap", "run.seed=9", "data.split={valid: rest, train: 0.8}"],
)
def test_folder_depends_on_nothing_but_the_packing_options(override: str, tmp_path: Path) -> None:
    assert folder_of(tmp_path, override) == folder_of(tmp_path)


def test_pack_options_follow_the_recipe(tmp_path: Path) -> None:
    data = load(tmp_path, overrides=("data.max_side=64", "data.split_seed=5")).recipe.data
    options = pack_options(data)
    assert options.root == Path("data/downloads")
    assert options.split == {"train": 0.8, "valid": "rest"}
    assert (options.max_side, options.seed, options.classes, options.download) == (64, 5, None, True)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_debug_recipe_of_a_shipped_recipe_is_right(path: Path, tmp_path: Path) -> None:
    recipe = debug_recipe(load_recipe(path, [f"data.dir={tmp_path / 'none'}"]).recipe, tmp_path / "debug")
    assert with_values(recipe, {}) == recipe
    assert find_contradictions(recipe) == []
    num_classes = len(recipe.data.classes or range(2 if recipe.loss.name == "bce" else 10))
    assert recipe.data.source == f"synthetic:{num_classes}x8"
    assert not str(recipe.data.dir).startswith(f"{tmp_path / 'debug'}/")
    plan = make_plan(recipe, 1, {"train": 5 * num_classes, "valid": num_classes, "test": num_classes}, num_classes)
    assert (plan.total_steps, plan.global_batch, plan.log_every_steps) == (4, 4, 1)


def test_debug_recipe_is_small(tmp_path: Path) -> None:
    recipe = debug_recipe(load(tmp_path).recipe, tmp_path / "debug")
    changed: dict[str, Any] = {
        "dir": recipe.run.dir,
        "device": recipe.strategy.device,
        "precision": recipe.strategy.precision,
        "weights": recipe.backbone.weights,
        "workers": recipe.data.workers,
        "compile": recipe.strategy.compile,
        "feature_cache_gib": recipe.strategy.feature_cache_gib,
        "wandb": recipe.log.wandb.mode,
        "micro_batch": recipe.train.micro_batch,
    }
    assert changed == {
        "dir": str(tmp_path / "debug"),
        "device": "cpu",
        "precision": "no",
        "weights": "none",
        "workers": 0,
        "compile": "off",
        "feature_cache_gib": 0.0,
        "wandb": "disabled",
        "micro_batch": None,
    }


@pytest.mark.parametrize(("lanes", "left"), [(16, 4), (2, 2), (1, 1)])
def test_lanes_of_a_debug_recipe_divide_its_batch(lanes: int, left: int, tmp_path: Path) -> None:
    words = (f"data.lanes={lanes}", "data.shuffle_images=64")
    recipe = debug_recipe(load(tmp_path, overrides=words).recipe, tmp_path / "debug")
    assert recipe.data.lanes == left
    assert find_contradictions(recipe) == []


def test_probe_recipe_has_no_lanes(tmp_path: Path) -> None:
    words = ("data.lanes=16", "data.shuffle_images=64")
    assert find_contradictions(probe_recipe(load(tmp_path, overrides=words).recipe, 3)) == []


def test_debug_recipe_uses_existing_shards(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    recipe = load(tmp_path, overrides=(f"data.dir={tmp_path}",)).recipe
    assert debug_recipe(recipe, tmp_path / "debug").data.source == "digits"


def test_debug_recipe_of_bce_has_two_classes(tmp_path: Path) -> None:
    recipe = load(tmp_path, overrides=("loss={name: bce}", f"data.dir={tmp_path / 'none'}")).recipe
    assert debug_recipe(recipe, tmp_path / "debug").data.source == "synthetic:2x8"


def test_probe_recipe_mixes_nothing(tmp_path: Path) -> None:
    mixed = load(tmp_path, overrides=("augment.mixup={alpha: 1}", "augment.cutmix={alpha: 1}", "augment.mix_p=0.5"))
    recipe = probe_recipe(mixed.recipe, 1)
    assert not recipe.augment.is_mixed
    assert find_contradictions(recipe) == []


def test_debug_recipe_drops_the_packing_options_of_torchvision_data(tmp_path: Path) -> None:
    data = f"data={{source: 'torchvision:CIFAR10', root: there, download: false, dir: {tmp_path / 'none'}}}"
    assert find_contradictions(debug_recipe(load(tmp_path, overrides=(data,)).recipe, tmp_path / "debug")) == []
