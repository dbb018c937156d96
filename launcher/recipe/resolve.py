"""Recipe -> Recipe: fill in defaults that depend on other keys, shrink for `--debug`, change for `probe`."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path
from typing import Any

from launcher.recipe.facts import brings_transform
from launcher.recipe.fields import with_values
from launcher.recipe.schema import Data, Recipe
from shards.manifest import MANIFEST_NAME
from shards.sources import PackOptions, describe

DOWNLOADS = "data/downloads"

DEBUG_EVAL_IMAGES = 8
"""Images per evaluated split of a debug run."""

DEBUG = {
    "backbone.weights": "none",
    "data.workers": 0,
    "data.cache": "none",
    "data.last_batch": "wrap",
    "strategy.device": "cpu",
    "strategy.precision": "no",
    "strategy.sync_batchnorm": False,
    "strategy.compile": "off",
    "strategy.feature_cache_gib": 0.0,
    "strategy.hang_timeout_s": None,
    "train.epochs": "4st",
    "train.micro_batch": None,
    "train.eval_batch": DEBUG_EVAL_IMAGES,
    "train.evaluate_every": "2st",
    "log.every": "1st",
    "log.wandb.mode": "disabled",
}
"""A few steps on the CPU: no threads, no W&B, random weights."""
DEBUG_BATCH = 4

PROBE = {
    "backbone.freeze": "backbone",
    "data.last_batch": "wrap",
    "loss": {"name": "cross_entropy"},
    "schedule": {"name": "constant"},
    "train.epochs": 1,
    "log.wandb.mode": "disabled",
}
"""The whole backbone frozen under one linear layer, and one pass over the images."""
NOT_IN_PROBE = (
    *("run.dir", "backbone.head", "data.lanes", "data.shuffle_images", "strategy.sync_batchnorm", "log.samples"),
    *("augment.views", "augment.mixup", "augment.cutmix", "augment.mix_p"),
    *("optim.ema_decay", "optim.backbone_lr", "optim.layer_decay"),
    *("train.micro_batch", "train.evaluate_every", "train.best_metric", "train.patience"),
)
"""Keys that a probe does not use: they get their defaults, and so contradict nothing."""


def resolve_recipe(recipe: Recipe, file_name: str) -> Recipe:
    """Replace null in `run.name`, `data.dir`, and in the normalization where no pretrained weights bring one."""
    name = recipe.run.name or re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file_name).stem).lstrip("._-") or "run"
    values = {"run.name": name, "data.dir": recipe.data.dir or _default_folder(recipe.data)}
    if not brings_transform(recipe.backbone):
        values |= {f"augment.{key}": "dataset" for key in ("mean", "std") if getattr(recipe.augment, key) is None}
    return with_values(recipe, values)


def pack_options(data: Data) -> PackOptions:
    """Options for packing `data.source`."""
    return PackOptions(
        root=Path(data.root or DOWNLOADS),
        classes=data.classes,
        split={str(name): share for name, share in data.split.items()} if data.split is not None else None,
        seed=data.split_seed,
        max_side=data.max_side,
        images_per_shard=data.images_per_shard,
        download=data.download,
    )


def _default_folder(data: Data) -> str:
    """`data/<source>-<hash>`: other packing options give another folder, so that recipes never mix their shards."""
    source = str(data.source)
    digest = hashlib.sha256(describe(source, pack_options(data)).encode()).hexdigest()[:8]
    return f"data/{re.sub(r'[^A-Za-z0-9._]+', '-', source).strip('-.')[-60:]}-{digest}"


def debug_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe as a small CPU run in `folder`.

    It uses the shards in `data.dir`, or else packs synthetic ones with the recipe's number of classes.
    """
    batch = min(DEBUG_BATCH, recipe.train.global_batch)
    values: dict[str, Any] = {**DEBUG, "run.dir": str(folder), "train.global_batch": batch}
    if recipe.backbone.head == "keep":
        values["backbone.head"] = {}
    if recipe.data.lanes is not None:
        values["data.lanes"] = math.gcd(recipe.data.lanes, batch)
    if not (recipe.data.folder / MANIFEST_NAME).exists():
        num_classes = len(recipe.data.classes or ()) or (2 if recipe.loss.name == "bce" else 10)
        synthetic = {"source": f"synthetic:{num_classes}x8", "split": None, "root": None, "download": True}
        folder_name = _default_folder(with_values(recipe.data, synthetic))
        values |= {f"data.{key}": value for key, value in {**synthetic, "dir": folder_name}.items()}
    return with_values(recipe, values)


def probe_recipe(recipe: Recipe, world_size: int) -> Recipe:
    """The recipe whose features are probed: every split gets the eval transform."""
    train = recipe.train
    batch = train.eval_batch or train.micro_batch or max(1, train.global_batch // world_size)
    batches = {"train.global_batch": batch * world_size, "train.eval_batch": batch}
    data = recipe.model_dump(mode="json")
    for path in NOT_IN_PROBE:
        section, key = path.split(".")
        del data[section][key]
    return with_values(Recipe.from_plain(data), {**PROBE, **batches, "augment.train": data["augment"]["eval"]})
