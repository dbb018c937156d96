"""BatchNorm keeps statistics on every process: what is evaluated must be what is saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launcher.augment.execute import build_augment
from launcher.data.feed import ImageFeed
from launcher.data.loader import Loader
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World
from launcher.models.loss import build_loss
from launcher.models.zoo import build_model
from launcher.recipe.parse import load_recipe
from launcher.train.evaluate import EvalSplit, evaluate
from shards.manifest import read_manifest
from tests.harness.runs import RECIPES, summary, train

RECIPE = RECIPES / "resnet18_cifar10_finetune_sgd.yaml"


@pytest.mark.parametrize("extra", ["strategy.sync_batchnorm=false", "optim.ema_decay=0.5"])
def test_two_processes_evaluate_what_they_save(tmp_path: Path, extra: str) -> None:
    overrides = ["data.source=synthetic:3x40x32", "data.split=null", "data.dir=shards", "backbone.weights=none",
                 "train.global_batch=16", "train.epochs=3st", "optim.lr=0.05", "train.eval_batch=7", extra]  # fmt: skip
    train(RECIPE, *overrides, "run.dir=run", "log.wandb.mode=disabled", cwd=tmp_path, processes=2)
    recipe = load_recipe(RECIPE, overrides).recipe
    manifest = read_manifest(tmp_path / "shards")
    model = build_model(recipe.backbone, 3).model
    name = "ema" if recipe.optim.ema_decay else "model"
    model.load_state_dict(load_file(tmp_path / "run" / "checkpoints" / "best" / f"{name}.safetensors"))
    loader = Loader(ShardReader(tmp_path / "shards", manifest, "valid"), 0, torch.device("cpu"))
    mean, std = recipe.augment.normalisation(manifest.mean, manifest.std)
    augment = build_augment(recipe.augment.eval_ops, mean, std)
    strategy = build_strategy(recipe.strategy, World(), 0, False)
    feed = ImageFeed(loader, augment, strategy, seed=0, num_views=None, engine=None)
    valid = EvalSplit("valid", manifest.num_images("valid"), num_classes=3, batch=5)
    counts = evaluate(model, feed, build_loss(recipe.loss, training=False), valid, strategy)
    expected = counts.metrics(manifest.classes)
    found = summary(tmp_path / "run")["valid"]
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert found["per_class"] == expected["per_class"]
