"""A recipe made ready to run: the transform of its pretrained weights, and the plan. Needs no torch."""

from __future__ import annotations

from launcher.models.known import is_known
from launcher.recipe.facts import brings_transform
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.plan import Plan, PlanError, make_plan
from launcher.recipe.schema import Recipe
from launcher.text import Say
from shards.manifest import Manifest


def complete_recipe(loaded: LoadedRecipe, say: Say) -> Recipe:
    """The recipe with the transform of its pretrained weights written out. Downloads nothing.

    `say` is told where the transform is not known exactly. Raise RecipeError when there is no such model, weights or
    file.
    """
    augment = loaded.recipe.augment
    is_whole = not brings_transform(loaded.recipe.backbone) or None not in (augment.eval, augment.mean, augment.std)
    if is_whole and is_known(loaded.recipe.backbone):
        return loaded.recipe
    from launcher.train.complete import ask_libraries

    return ask_libraries(loaded, say)


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
