"""The manifest of a recipe's shards; packed first, by one process, when they are not there. Needs no torch."""

from __future__ import annotations

import time
from contextlib import nullcontext
from pathlib import Path

from launcher.errors import DataError
from launcher.recipe.resolve import pack_options
from launcher.recipe.schema import Data
from launcher.world import World
from shards.console import ConsoleProgress
from shards.manifest import MANIFEST_NAME, Manifest, read_manifest
from shards.progress import SILENT
from shards.sources import describe
from shards.write import prepare

HEAD_START_S = 1.0
"""Rank 0 comes to the lock first, so that the progress bar of a long packing is seen."""


def prepare_data(data: Data, world: World) -> Manifest:
    """Raise ShardsError when shards can be neither found nor packed, DataError when they are of another source."""
    folder = Path(str(data.dir))
    if data.source is None:
        return read_manifest(folder)
    if not world.is_first and not (folder / MANIFEST_NAME).exists():
        time.sleep(HEAD_START_S)
    options = pack_options(data)
    try:
        with ConsoleProgress() if world.is_first else nullcontext(SILENT) as progress:
            manifest = prepare(data.source, folder, options, progress)
    except OSError as error:
        raise DataError(
            f"{folder}: packing {data.source} failed: {error}; set data.dir to a folder with room"
        ) from None
    wanted = describe(data.source, options)
    if manifest.source != wanted:
        raise DataError(
            f"{folder} holds '{manifest.source}', the recipe asks for '{wanted}': set another data.dir, or "
            "data.source=null data.split=null data.classes=null to train on what is there"
        )
    return manifest
