"""`launcher check RECIPE`: everything that can be known before a device is touched, for any number of nodes."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from launcher.data.order import Order, build_order
from launcher.data.prepare import prepare_data
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE, UserError
from launcher.recipe.augment import Augment
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.plan import Plan
from launcher.run.console import Console
from launcher.text import show_bytes
from launcher.train.prepare import complete_recipe, plan_run
from shards.manifest import MANIFEST_NAME, Manifest

FEW_IDS = 16
"""Ids of a first batch that are shown unless more is asked for."""

WORDS = {
    "world_size": "processes",
    "num_classes": "classes",
    "num_train": "training images",
    "global_batch": "global batch",
    "rank_batch": "batch per process",
    "micro_batch": "images per forward pass",
    "accumulation": "forward passes per step",
    "eval_batch": "images per forward pass, evaluation",
    "steps_per_epoch": "steps per epoch",
    "total_steps": "steps in all",
    "dropped_per_epoch": "images dropped per epoch",
    "wrapped_per_epoch": "images seen twice per epoch",
    "lanes": "lanes",
    "lane_window": "images shuffled together in a lane",
    "warmup_steps": "warm-up steps",
    "drop_every_steps": "steps between drops of the learning rate",
    "evaluate_every_steps": "steps between validations",
    "checkpoint_every_steps": "steps between checkpoints",
    "log_every_steps": "steps between records",
}
"""What the whole numbers of a plan are to a person."""


@dataclass(frozen=True, slots=True)
class Options:
    """For which processes to plan. `processes`: in all, on one node; None: `nodes` times `gpus_per_node`.

    `rank`: whose first batch to show whole; None: the beginning of the first one's.
    """

    processes: int | None = None
    nodes: int = 1
    gpus_per_node: int = 1
    rank: int | None = None

    @property
    def world_size(self) -> int:
        return self.processes if self.processes is not None else self.nodes * self.gpus_per_node

    def check(self) -> None:
        """Raise UserError when these are not such processes."""
        for name in ("processes", "nodes", "gpus_per_node"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UserError(f"--{name.replace('_', '-')} {number}: must be at least 1")
        if self.processes is not None and self.nodes * self.gpus_per_node > 1:
            raise UserError("--processes: leave it out, --nodes and --gpus-per-node say how many there are")
        if self.rank is not None and not 0 <= self.rank < self.world_size:
            raise UserError(f"--rank {self.rank}: must be 0 to {self.world_size - 1}")


def check(loaded: LoadedRecipe, options: Options) -> int:
    """Print the plan for these processes. Raise RecipeError for whatever would stop the run."""
    options.check()
    console = Console()
    recipe = complete_recipe(loaded, console.say)
    console.say(_describe_eval(recipe.augment))
    folder = recipe.data.folder
    if recipe.data.source is not None and not (folder / MANIFEST_NAME).exists():
        console.say(
            f"{loaded.file}: recipe is right; {folder} will be packed from {recipe.data.source} by the first run"
        )
        return EXIT_DONE
    manifest = prepare_data(recipe.data, World())
    plan = plan_run(loaded, recipe, options.world_size, manifest)
    order = build_order(plan, manifest, recipe.run.seed)
    console.table(
        f"{loaded.file} on {options.world_size} processes", [*_rows(plan), *_node_rows(manifest, order, options.nodes)]
    )
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
            rows.append((WORDS[field.name], f"{value:,}"))
        elif field.name == "num_eval":
            rows += [(f"{split} images", f"{num:,}") for split, num in value.items()]
    return rows


def _node_rows(manifest: Manifest, order: Order, nodes: int) -> list[tuple[str, str]]:
    """How many training shards each node opens in the first epoch, and their size."""
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
    shown = ids if rank is not None else ids[:FEW_IDS]
    more = "" if len(shown) == len(ids) else f" and {len(ids) - len(shown):,} more; all: --rank 0"
    return f"step 1, rank {rank or 0}: samples {' '.join(map(str, shown.tolist()))}{more}"
