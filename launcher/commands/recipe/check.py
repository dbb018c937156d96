"""`launcher check RECIPE`: the plan of a training on any number of nodes, without touching a device."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from launcher.commands.recipe.options import CheckOptions
from launcher.data.order import Order, build_order
from launcher.data.prepare import prepare_data
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE
from launcher.recipe.augment import Augment
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.plan import Plan
from launcher.run.console import Console
from launcher.text import show_bytes, show_count
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import MANIFEST_NAME, Manifest

SHOWN_IDS = 16
"""Sample ids of the first batch to show without --rank."""

LABELS = {
    "num_classes": "classes",
    "num_train": "training images",
    "accumulation": "micro batches per step",
    "eval_batch": "evaluation batch of a rank",
    "dropped_per_epoch": "images dropped per epoch",
    "wrapped_per_epoch": "images repeated per epoch",
    "lane_window": "images shuffled together in a lane",
    "warmup_steps": "warm-up steps",
    "drop_every_steps": "steps between learning rate drops",
    "evaluate_every_steps": "steps between validations",
    "checkpoint_every_steps": "steps between checkpoints",
    "log_every_steps": "steps between train records",
}
"""Row labels of the fields of a plan whose names do not say it."""


def check(loaded: LoadedRecipe, options: CheckOptions) -> int:
    """Print the plan. Raise UserError, ShardsError or RecipeError for whatever would stop the run."""
    options.check()
    console = Console()
    recipe = complete_recipe(loaded, console.say)
    console.say(_describe_eval(recipe.augment))
    folder = recipe.data.folder
    if recipe.data.source is not None and not (folder / MANIFEST_NAME).exists():
        console.say(f"{loaded.file}: the recipe is valid; the first run packs {folder} from {recipe.data.source}")
        return EXIT_DONE
    manifest = prepare_data(recipe.data, World())
    plan = plan_run(loaded, recipe, options.world_size, manifest)
    order = build_order(plan, manifest, recipe.run.seed)
    rows = [*_rows(plan), *_node_rows(manifest, order, options.nodes)]
    console.table(f"{loaded.file} on {show_count(options.world_size, 'process')}", rows)
    console.say(_describe_first_batch(order, options.rank))
    for note in plan.notes:
        console.say(f"note: {note}")
    return EXIT_DONE


def _describe_eval(augment: Augment) -> str:
    """`eval: resize 256 bilinear, center_crop 224; mean 0.485 0.456 0.406; std dataset`."""
    ops = []
    for op in augment.eval_ops:
        size = str(op.size) if isinstance(op.size, int) else f"{op.size[0]} x {op.size[1]}"
        ops.append(f"{op.op} {size} {op.interpolation}" if op.op == "resize" else f"{op.op} {size}")
    numbers = [
        value if isinstance(value, str) else " ".join(f"{channel:.4g}" for channel in value or ())
        for value in (augment.mean, augment.std)
    ]
    return f"eval: {', '.join(ops)}; mean {numbers[0]}; std {numbers[1]}"


def _rows(plan: Plan) -> list[tuple[str, str]]:
    rows = []
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, int):
            rows.append((LABELS.get(field.name, field.name.replace("_", " ")), f"{value:,}"))
        elif field.name == "num_eval":
            rows += [(f"{split} images", f"{num:,}") for split, num in value.items()]
    return rows


def _node_rows(manifest: Manifest, order: Order, nodes: int) -> list[tuple[str, str]]:
    """Number and size of the training shards that each node opens in the first epoch."""
    shard_bytes = np.array([shard.num_bytes for shard in manifest.shards_of("train")], dtype=np.int64)
    opened = (order.epochs.shards(0, node, nodes) for node in range(nodes))
    nums, sizes = zip(*((len(shards), int(shard_bytes[shards].sum())) for shards in opened), strict=True)
    return [
        ("shards per node and epoch", f"{_span(f'{min(nums):,}', f'{max(nums):,}')} of {len(shard_bytes):,}"),
        ("bytes per node and epoch", _span(show_bytes(min(sizes)), show_bytes(max(sizes)))),
    ]


def _span(least: str, most: str) -> str:
    return least if least == most else f"{least} to {most}"


def _describe_first_batch(order: Order, rank: int | None) -> str:
    ids = order.micro_batch_ids(1, rank or 0).reshape(-1)
    shown = ids if rank is not None else ids[:SHOWN_IDS]
    more = "" if len(shown) == len(ids) else f" and {len(ids) - len(shown):,} more; --rank 0 shows all"
    return f"step 1, rank {rank or 0}: sample ids {' '.join(map(str, shown.tolist()))}{more}"
