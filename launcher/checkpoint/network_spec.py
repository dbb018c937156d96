"""`network.json`: what a checkpoint's network is, so that whoever has the checkpoint needs nothing else to use it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.errors import CheckpointError
from launcher.recipe.augment import Channels
from launcher.recipe.schema import Recipe
from launcher.text import one_line

SPEC_NAME = "network.json"


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """`recipe`: that it was trained by, with names resolved. `classes`: by number. `mean`, `std`: on the scale [0, 1],
    of the normalisation, whether they come from the recipe or from the shards."""

    recipe: Recipe
    classes: tuple[str, ...]
    mean: Channels
    std: Channels

    def to_json(self) -> dict[str, Any]:
        recipe = self.recipe.model_dump(mode="json")
        return {"classes": self.classes, "mean": self.mean, "std": self.std, "recipe": recipe}


def read_spec(checkpoint: Path) -> NetworkSpec:
    """Raise CheckpointError when there is none, or it is not to be read."""
    file = checkpoint / SPEC_NAME
    try:
        metadata = json.loads(file.read_text())
        recipe = Recipe.model_validate_json(json.dumps(metadata["recipe"]))
        return NetworkSpec(recipe, tuple(metadata["classes"]), tuple(metadata["mean"]), tuple(metadata["std"]))
    except FileNotFoundError:
        raise CheckpointError(f"{file}: is not there; train anew with this version") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file}: not to be read ({one_line(error)})") from None
