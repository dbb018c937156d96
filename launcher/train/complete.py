"""The part of a recipe that only the networks' libraries know: names of models and weights, and their transforms."""

from __future__ import annotations

from launcher.models.frozen.freeze import check_freeze
from launcher.models.transform import fill_from_weights
from launcher.models.zoo import check_backbone
from launcher.recipe.lint import find_contradictions
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Recipe
from launcher.text import Say


def ask_libraries(loaded: LoadedRecipe, say: Say) -> Recipe:
    """As `prepare.complete_recipe`, by asking torchvision and timm."""
    if problems := check_backbone(loaded.recipe.backbone) or check_freeze(loaded.recipe.backbone):
        raise loaded.error(problems)
    recipe = fill_from_weights(loaded.recipe, lambda note: say(f"note: {note}"))
    if problems := find_contradictions(recipe):
        raise loaded.error(problems)
    return recipe
