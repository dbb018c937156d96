"""`launcher check RECIPE`: everything that can be known before a device is touched."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from launcher.data.prepare import prepare_data
from launcher.errors import EXIT_DONE, UserError
from launcher.log.console import Console
from launcher.models.zoo import check_backbone
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
    recipe = loaded.recipe
    if problems := check_backbone(recipe.backbone):
        raise loaded.error(problems)
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
