"""`launcher check RECIPE`: everything that can be known before a device is touched."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from launcher.data.prepare import prepare_data
from launcher.errors import EXIT_DONE, UserError
from launcher.log.console import Console
from launcher.models.freeze import check_freeze
from launcher.models.transform import fill_from_weights
from launcher.models.zoo import check_backbone
from launcher.recipe.augment import Augment
from launcher.recipe.contradictions import find_contradictions
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.plan import Plan, PlanError, make_plan
from launcher.recipe.schema import Recipe
from launcher.world import World
from shards.manifest import MANIFEST_NAME, Manifest


def check(loaded: LoadedRecipe, processes: int) -> int:
    """Print the plan for this many processes. Raise RecipeError for whatever would stop the run."""
    if processes < 1:
        raise UserError(f"--processes {processes}: must be at least 1")
    console = Console(1, 1)
    recipe = complete_recipe(loaded, console.say)
    console.say(_describe_eval(recipe.augment))
    folder = Path(str(recipe.data.dir))
    if recipe.data.source is not None and not (folder / MANIFEST_NAME).exists():
        console.say(
            f"{loaded.file}: recipe is right; {folder} will be packed from {recipe.data.source} by the first run"
        )
        return EXIT_DONE
    plan = plan_run(loaded, recipe, processes, prepare_data(recipe.data, World()))
    console.table(f"{loaded.file} on {processes} processes", _rows(plan))
    for note in plan.notes:
        console.say(f"note: {note}")
    return EXIT_DONE


def complete_recipe(loaded: LoadedRecipe, say: Callable[[str], None]) -> Recipe:
    """The recipe with what its pretrained weights were made with written out. Downloads nothing.

    `say` is told where that cannot be had exactly. Raise RecipeError when there are no such models, weights or files.
    """
    if problems := check_backbone(loaded.recipe.backbone) or check_freeze(loaded.recipe.backbone):
        raise loaded.error(problems)
    recipe = fill_from_weights(loaded.recipe, lambda note: say(f"note: {note}"))
    if problems := find_contradictions(recipe):
        raise loaded.error(problems)
    return recipe


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


def plan_run(
    loaded: LoadedRecipe, recipe: Recipe, processes: int, manifest: Manifest, max_eval_images: int | None = None
) -> Plan:
    """The plan of `recipe`, made from `loaded`. `max_eval_images`: of each split that is evaluated; None: all.

    Raise RecipeError, with places, when the recipe does not fit the processes or the data.
    """
    num_images = {split: manifest.num_images(split) for split in manifest.splits}
    if max_eval_images is not None:
        num_images |= {split: min(num, max_eval_images) for split, num in num_images.items() if split != "train"}
    try:
        return make_plan(recipe, processes, num_images, len(manifest.classes))
    except PlanError as error:
        raise loaded.error(error.problems) from None


def _rows(plan: Plan) -> list[tuple[str, str]]:
    rows = []
    for field in fields(plan):
        value = getattr(plan, field.name)
        if isinstance(value, int):
            rows.append((field.name, f"{value:,}"))
        elif field.name == "num_eval":
            rows += [(f"num_{split}", f"{num:,}") for split, num in value.items()]
    return rows
