"""Plans, shards and images for the tests, the plans by the recipe's own way."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from launcher.data.order import Order, build_order
from launcher.recipe.plan import Plan, make_plan
from launcher.recipe.schema import Recipe
from shards.manifest import Manifest, Shard
from shards.sources import PackOptions
from shards.write import pack

SIDE = 32


def recipe_of(**sections: Mapping[str, Any]) -> Recipe:
    """A small valid recipe with these sections in it."""
    crop = [{"op": "center_crop", "size": SIDE}]
    small: dict[str, Any] = {
        "backbone": {"name": "lenet"},
        "data": {"source": "digits"},
        "augment": {"train": crop, "eval": crop},
        "optim": {"name": "sgd", "lr": 0.1},
        "train": {"epochs": 2, "global_batch": 8},
    }
    return Recipe.model_validate_json(json.dumps(small | sections))


def plan_of(
    num_train: int = 64,
    world_size: int = 1,
    num_classes: int = 3,
    num_eval: Mapping[str, int] | None = None,
    **sections: Mapping[str, Any],
) -> Plan:
    return make_plan(recipe_of(**sections), world_size, {"train": num_train, **(num_eval or {})}, num_classes)


def manifest_of(sizes: Sequence[int], num_classes: int = 3, shard_bytes: int = 10240) -> Manifest:
    """A manifest of training shards with these numbers of images; the tars do not exist."""
    shards = [Shard(f"train-{i:06d}.tar", "train", size, shard_bytes, f"{i:064x}") for i, size in enumerate(sizes)]
    classes = tuple(f"class-{k}" for k in range(num_classes))
    counts = np.full(num_classes, sum(sizes) // num_classes)
    counts[: sum(sizes) % num_classes] += 1
    return Manifest("made up", classes, tuple(shards), {"train": tuple(counts.tolist())}, (0.5,) * 3, (0.2,) * 3)


def order_of(plan: Plan, sizes: Sequence[int], seed: int = 7) -> Order:
    return build_order(plan, manifest_of(sizes), seed)


def pack_synthetic(dest: Path, images_per_shard: int = 7) -> Manifest:
    """Three classes of 20 JPEGs of SIDE x SIDE pixels: 42 train, 9 valid, 9 test."""
    return pack(f"synthetic:3x20x{SIDE}", dest, PackOptions(images_per_shard=images_per_shard))


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=file_format, **options)
    return buffer.getvalue()
