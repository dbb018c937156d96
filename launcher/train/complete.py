"""What only the networks' libraries know about a recipe: names of models, of weights, and what those were made with."""

from __future__ import annotations

from collections.abc import Callable

from launcher.models.frozen.freeze import check_freeze
from launcher.models.transform import fill_from_weights
from launcher.models.zoo import check_backbone
from launcher.recipe.lint import find_contradictions
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Recipe


def ask_libraries(loaded: LoadedRecipe, say: Callable[[str], None]) -> Recipe:
    """The recipe with what its pretrained weights were made with written out. Downloads nothing.

    `say` is told where that cannot be had exactly. Raise RecipeError when there are no such models, weights or files.
    """
    if problems := check_backbone(loaded.recipe.backbone) or check_freeze(loaded.recipe.backbone):
        raise loaded.error(problems)
    recipe = fill_from_weights(loaded.recipe, lambda note: say(f"note: {note}"))
    if problems := find_contradictions(recipe):
        raise loaded.error(problems)
    return recipe
