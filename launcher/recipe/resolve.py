"""Fill in what a recipe leaves open, and shrink it for `--debug`. Recipe in, Recipe out."""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

from launcher.recipe.backbone import Head
from launcher.recipe.duration import Duration
from launcher.recipe.lint import has_transform
from launcher.recipe.optim import Constant
from launcher.recipe.schema import CrossEntropy, Data, Recipe
from shards.manifest import MANIFEST_NAME
from shards.sources import PackOptions, describe

DOWNLOADS = "data/downloads"

DEBUG_STEPS = 4
DEBUG_BATCH = 4
DEBUG_EVAL_IMAGES = 8
DEBUG_STRATEGY = {
    "device": "cpu",
    "precision": "no",
    "sync_batchnorm": False,
    "compile": "off",
    "feature_cache_gib": 0.0,
    "hang_timeout_s": None,
}
WITHOUT_LANES = {"lanes": None, "shuffle_images": Data.model_fields["shuffle_images"].default}


def resolve_recipe(recipe: Recipe, file_name: str) -> Recipe:
    """Give `run.name`, `data.dir` and normalisation their values where the recipe has null and no weights decide."""
    name = recipe.run.name or re.sub(r"[^A-Za-z0-9._-]+", "-", Path(file_name).stem).lstrip("._-") or "run"
    folder = recipe.data.dir or _default_folder(recipe.data)
    augment = recipe.augment
    if not has_transform(recipe.backbone):
        augment = augment.model_copy(update={"mean": augment.mean or "dataset", "std": augment.std or "dataset"})
    return recipe.model_copy(
        update={
            "run": recipe.run.model_copy(update={"name": name}),
            "data": recipe.data.model_copy(update={"dir": folder}),
            "augment": augment,
        }
    )


def pack_options(data: Data) -> PackOptions:
    """How `data.source` is to be packed."""
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
    """`data/<source>-<hash>`: another way of packing gets another folder, so that two recipes never mix."""
    source = str(data.source)
    digest = hashlib.sha256(describe(source, pack_options(data)).encode()).hexdigest()[:8]
    return f"data/{re.sub(r'[^A-Za-z0-9._]+', '-', source).strip('-.')[-60:]}-{digest}"


def debug_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """The same recipe as one small CPU run in `folder`: a handful of batches, no threads, no W&B, random weights.

    Shards that are there are used; otherwise synthetic ones, with the recipe's number of classes, are packed.
    """
    num_classes = (
        len(recipe.data.classes) if recipe.data.classes is not None else 2 if recipe.loss.name == "bce" else 10
    )
    data = recipe.data.model_copy(update={"workers": 0})
    if not (Path(str(data.dir)) / MANIFEST_NAME).exists():
        synthetic = {"source": f"synthetic:{num_classes}x8", "dir": None, "split": None}
        data = data.model_copy(update={**synthetic, "root": None, "download": True})
        data = data.model_copy(update={"dir": _default_folder(data)})
    batch = min(DEBUG_BATCH, recipe.train.global_batch)
    if data.lanes is not None:
        data = data.model_copy(update={"lanes": math.gcd(data.lanes, batch)})
    return recipe.model_copy(
        update={
            "run": recipe.run.model_copy(update={"dir": str(folder)}),
            "backbone": recipe.backbone.model_copy(
                update={"weights": "none", "head": Head() if recipe.backbone.head == "keep" else recipe.backbone.head}
            ),
            "data": data.model_copy(update={"last_batch": "wrap", "cache": "none"}),
            "strategy": recipe.strategy.model_copy(update=DEBUG_STRATEGY),
            "train": recipe.train.model_copy(
                update={
                    "epochs": Duration(DEBUG_STEPS, "st"),
                    "global_batch": batch,
                    "micro_batch": None,
                    "eval_batch": DEBUG_EVAL_IMAGES,
                    "evaluate_every": Duration(DEBUG_STEPS // 2, "st"),
                }
            ),
            "log": recipe.log.model_copy(
                update={"every": Duration(1, "st"), "wandb": recipe.log.wandb.model_copy(update={"mode": "disabled"})}
            ),
        }
    )


def probe_recipe(recipe: Recipe, num_processes: int) -> Recipe:
    """The same backbone, all of it frozen, below one linear layer; every split is transformed as for evaluation.

    What only training would follow is left out, so that none of it stands in the way.
    """
    train = recipe.train
    batch = train.eval_batch or train.micro_batch or max(1, train.global_batch // num_processes)
    return recipe.model_copy(
        update={
            "run": recipe.run.model_copy(update={"dir": None}),
            "backbone": recipe.backbone.model_copy(update={"head": Head(), "freeze": "backbone"}),
            "data": recipe.data.model_copy(update={"last_batch": "wrap", **WITHOUT_LANES}),
            "augment": recipe.augment.model_copy(
                update={
                    "train": recipe.augment.eval_ops,
                    "views": None,
                    "mixup": None,
                    "cutmix": None,
                    "mix_p": 1.0,
                }
            ),
            "loss": CrossEntropy(name="cross_entropy"),
            "optim": recipe.optim.model_copy(update={"ema_decay": None, "backbone_lr": None, "layer_decay": None}),
            "schedule": Constant(name="constant"),
            "strategy": recipe.strategy.model_copy(update={"sync_batchnorm": False}),
            "train": train.model_copy(
                update={
                    "epochs": Duration(1, "ep"),
                    "global_batch": batch * num_processes,
                    "micro_batch": None,
                    "eval_batch": batch,
                    "evaluate_every": Duration(1, "ep"),
                    "best_metric": "top1_frac",
                    "patience": None,
                }
            ),
            "log": recipe.log.model_copy(
                update={"samples": False, "wandb": recipe.log.wandb.model_copy(update={"mode": "disabled"})}
            ),
        }
    )
