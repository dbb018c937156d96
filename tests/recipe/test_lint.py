from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.lint import find_contradictions
from launcher.recipe.parse import load_recipe
from tests.recipe.right import SHIPPED, load


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipes_have_none(path: Path) -> None:
    assert find_contradictions(load_recipe(path).recipe) == []


@pytest.mark.parametrize(
    "overrides",
    [
        ("backbone.head={hidden: [8], activation: tanh}",),
        ("backbone.head.activation=relu",),
        ("strategy.sync_batchnorm=true",),
        ("backbone.freeze=backbone",),
        ("loss={name: bce}", "data.classes=['3', '5']"),
        ("loss={name: bce}",),
        ("optim.nesterov=true",),
        ("strategy={precision: fp16}",),
        ("strategy={precision: fp16, device: cuda}",),
        ("strategy={precision: bf16, device: cpu}",),
        ("data={dir: shards, workers: 2, last_batch: wrap}",),
        ("data={dir: shards, download: true, images_per_shard: 1000, root: null}",),
        ("data={source: 'torchvision:CIFAR10', root: there, download: false}",),
        ("data.split={train: 60, valid: 10, test: rest}",),
        ("data.split={train: 0.5, valid: 0.5}",),
        ("data.split=null",),
        ("augment.eval=[{op: resize, size: 32}, {op: center_crop, size: 32}]",),
        ("augment.train=[{op: random_resized_crop, size: 32, scale: [1.0, 1.0]}]",),
        ("augment.mixup={alpha: 0.2}", "augment.cutmix={alpha: 1}", "augment.mix_p=0.5"),
        ("train.micro_batch=32",),
        ("backbone={name: lenet}",),
    ],
)
def test_what_only_looks_like_one(overrides: tuple[str, ...], tmp_path: Path) -> None:
    assert find_contradictions(load(tmp_path, overrides=overrides).recipe) == []


def test_problem_names_every_key_it_rests_on(tmp_path: Path) -> None:
    recipe = load(tmp_path).recipe
    wrong = recipe.model_copy(update={"train": recipe.train.model_copy(update={"micro_batch": 5})})
    [problem] = find_contradictions(wrong)
    assert (problem.path, problem.paths) == ("train.micro_batch", ("train.micro_batch", "train.global_batch"))
