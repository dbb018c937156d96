"""The manifest of a recipe's shards, which are packed first where they are missing; and the folder they are read from.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from launcher.data.reader import LocalFolder, ShardFolder
from launcher.data.remote.folder import RemoteFolder
from launcher.data.remote.manifest import fetch_manifest
from launcher.data.remote.shard_cache import ShardCache
from launcher.data.remote.store import RemoteStore
from launcher.distributed.world import World
from launcher.errors import DataError, Stopped
from launcher.recipe.resolve import pack_options
from launcher.recipe.schema import Data
from launcher.recipe.url import is_url
from shards.console import ConsoleProgress
from shards.manifest import Manifest, read_manifest
from shards.progress import SILENT, Progress
from shards.sources import describe
from shards.write import prepare

REMOTE_CACHE = "data/remote"


class _Interruptible(Progress):
    """The progress `shown`, which raises Stopped once `should_stop`: half-packed shards are packed again."""

    def __init__(self, shown: Progress, should_stop: Callable[[], bool]) -> None:
        self._shown = shown
        self._should_stop = should_stop

    def update(self, task: str, done: int, total: int) -> None:
        if self._should_stop():
            raise Stopped("stopped while packing; the same command packs again")
        self._shown.update(task, done, total)

    def note(self, line: str) -> None:
        self._shown.note(line)


def prepare_data(data: Data, world: World, should_stop: Callable[[], bool] = lambda: False) -> Manifest:
    """The manifest of the recipe's shards, packed now where they are missing. `should_stop` is polled while packing.

    Raise ShardsError when shards can be neither found nor packed, DataError when they are of another source,
    UserError when the manifest of remote ones cannot be fetched, Stopped once `should_stop`.
    """
    if is_url(str(data.dir)):
        return fetch_manifest(*_open_remote(data))
    folder = data.folder
    if data.source is None:
        return read_manifest(folder)
    options = pack_options(data)
    try:
        with ConsoleProgress() if world.is_first else nullcontext(SILENT) as progress:
            manifest = prepare(data.source, folder, options, _Interruptible(progress, should_stop))
    except OSError as error:
        raise DataError(
            f"{folder}: packing {data.source} failed: {error}; set data.dir to a folder with room"
        ) from None
    wanted = describe(data.source, options)
    if manifest.source != wanted:
        raise DataError(
            f"{folder} holds '{manifest.source}', the recipe asks for '{wanted}': set another data.dir, or "
            "data.source=null data.split=null data.classes=null to train on these shards"
        )
    return manifest


def open_folder(data: Data, manifest: Manifest, world: World) -> ShardFolder:
    """The folder of a prepared manifest's shards. Raise UserError when a remote one cannot be opened."""
    if not is_url(str(data.dir)):
        return LocalFolder(data.folder, can_be_packed=data.source is not None)
    return RemoteFolder(*_open_remote(data), manifest, world.local_size)


def _open_remote(data: Data) -> tuple[RemoteStore, ShardCache]:
    cache = ShardCache(Path(data.remote_cache or REMOTE_CACHE), int(data.remote_cache_gib * 2**30))
    return RemoteStore(str(data.dir), data.remote_tries), cache
