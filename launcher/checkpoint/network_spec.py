"""`network.json`: everything beside the weights that is needed to use a checkpoint's network."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import CheckpointError
from launcher.recipe.augment import Channels
from launcher.recipe.schema import Recipe

SPEC_NAME = "network.json"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """`recipe`: of its training, with names resolved. `classes`: names by number. `mean`, `std`: of the normalisation,
    on the scale [0, 1], whether they come from the recipe or from the shards."""

    recipe: Recipe
    classes: tuple[str, ...]
    mean: Channels
    std: Channels

    def to_json(self) -> dict[str, Any]:
        recipe = self.recipe.model_dump(mode="json")
        return {"classes": self.classes, "mean": self.mean, "std": self.std, "recipe": recipe}


def read_spec(checkpoint: Path) -> NetworkSpec:
    """Raise CheckpointError when there is none, or another version wrote it."""
    file = checkpoint / SPEC_NAME
    try:
        metadata = json.loads(file.read_text())
        recipe = Recipe.model_validate_json(json.dumps(metadata["recipe"]))
        return NetworkSpec(recipe, tuple(metadata["classes"]), tuple(metadata["mean"]), tuple(metadata["std"]))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{file}: another version wrote it") from None
