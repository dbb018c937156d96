"""`launcher fetch RECIPE`: download and pack in advance everything that a run needs from the network."""

from __future__ import annotations

from launcher.data.prepare import open_folder, prepare_data
from launcher.data.remote.folder import RemoteFolder
from launcher.distributed.world import World
from launcher.errors import EXIT_DONE
from launcher.models.download import fetch_weights
from launcher.recipe.backbone import Backbone
from launcher.recipe.parse import LoadedRecipe
from launcher.recipe.schema import Data
from launcher.run.console import Console
from launcher.train.prepare import complete_recipe
from shards.manifest import MANIFEST_NAME

NOTHING = "nothing to fetch"


def fetch(loaded: LoadedRecipe) -> int:
    """Print where weights and shards are, and whether they were fetched now.

    Raise UserError or ShardsError when something can be neither found, downloaded nor packed.
    """
    console = Console()
    recipe = complete_recipe(loaded, console.say)
    console.say(f"weights: {_fetch_weights(recipe.backbone)}")
    console.say(f"shards: {_fetch_data(recipe.data)}")
    return EXIT_DONE


def _fetch_weights(backbone: Backbone) -> str:
    if backbone.weights_name is None:
        return f"{backbone.weights}, {NOTHING}"
    fetched = fetch_weights(backbone)
    name = f"{backbone.name} {backbone.weights}"
    return f"{name} fetched to {fetched.path}" if fetched.is_new else f"{name} already in {fetched.path}, {NOTHING}"


def _fetch_data(data: Data) -> str:
    is_new = not (data.folder / MANIFEST_NAME).exists()
    manifest = prepare_data(data, World())
    num_images = sum(manifest.num_images(split) for split in manifest.splits)
    images = f"{num_images:,} images of {len(manifest.classes):,} classes"
    folder = open_folder(data, manifest, World())
    if isinstance(folder, RemoteFolder):
        num_new = folder.fetch_all(manifest.shards)
        fetched = f"{num_new:,} of {len(manifest.shards):,} shards fetched" if num_new else f"already here, {NOTHING}"
        return f"{images}, {folder.describe().removeprefix('shards ')}: {fetched}"
    return f"{images} packed into {data.dir}" if is_new else f"{images} already in {data.dir}, {NOTHING}"
