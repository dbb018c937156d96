"""The manifest of a recipe's shards, packed first, by one process, when they are not there; and where they are read.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from launcher.data.reader import LocalFolder, ShardFolder
from launcher.data.remote.origin import RemoteStore
from launcher.data.remote.remote import RemoteFolder, fetch_manifest
from launcher.data.remote.shard_cache import ShardCache
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
    """Shows what `shown` shows, and ends the packing when asked to stop: what is half packed is packed anew."""

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
    """Raise ShardsError when shards can be neither found nor packed, DataError when they are of another source,
    UserError when they are remote and their manifest is not to be had.

    `should_stop` is asked while packing; Stopped is raised when it says so.
    """
    if is_url(str(data.dir)):
        return fetch_manifest(*_far_and_near(data))
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
            "data.source=null data.split=null data.classes=null to train on what is there"
        )
    return manifest


def open_folder(data: Data, manifest: Manifest, world: World) -> ShardFolder:
    """Where the shards of a prepared manifest are read. Raise UserError when they are remote and that cannot be."""
    if not is_url(str(data.dir)):
        return LocalFolder(data.folder, can_be_packed=data.source is not None)
    return RemoteFolder(*_far_and_near(data), manifest, world.local_size)


def _far_and_near(data: Data) -> tuple[RemoteStore, ShardCache]:
    cache = ShardCache(Path(data.remote_cache or REMOTE_CACHE), int(data.remote_cache_gib * 2**30))
    return RemoteStore(str(data.dir), data.remote_tries), cache
