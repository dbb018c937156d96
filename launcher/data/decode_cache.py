"""`data.cache`: decides whether and where a split is kept decoded, decodes it once, and gives it to its loader.

Called by every rank.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from launcher.data.decoded import DecodedCache, estimate_pixels, lay_out, scan_headers
from launcher.data.ids import part_ids
from launcher.data.loader import Loader
from launcher.data.shared_memory import create_shared, free_bytes, map_shared, shared_folder
from launcher.distributed.comm import Comm
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError
from launcher.recipe.schema import Data
from launcher.text import Say, show_bytes

T = TypeVar("T")

_DEVICE_SHARE = 4
"""Cached images of all splits may take 1/4 of a GPU's memory that the network leaves: a step needs the rest."""

_cached: WeakSet[Loader] = WeakSet()
"""The loaders of this process that got their images here, to know what is taken of its GPU."""


def cache_decoded(strategy: Strategy, split: str, loader: Loader, data: Data, run_id: str, say: Say) -> None:
    """Decode a split into memory where `data.cache` and the free memory allow it.

    Raise DataError on every rank when an image is damaged and the policy is to fail.
    """
    if loader.is_decoded:
        return
    try:
        say(f"images of {split}: {_cache(strategy, split, loader, data, run_id)}")
    except DataError as error:
        if data.on_error == "fail":
            raise
        say(f"images of {split}: not cached, one cannot be read: {error}")


def _cache(strategy: Strategy, split: str, loader: Loader, data: Data, run_id: str) -> str:
    """The outcome, for the user. Raise DataError on every rank when an image is damaged."""
    assert data.cache != "none"
    estimates = _gather(strategy.comm, lambda: estimate_pixels(loader.reader, loader.min_side))
    num_bytes, room_bytes = 3 * estimates[0], data.cache_gib * 2**30
    device, limit = _choose_device(strategy, data.cache, num_bytes, room_bytes)
    if device is None:
        return f"not cached, {show_bytes(num_bytes)} are more than {limit}"
    start = time.perf_counter()
    decoded = _decode(strategy.comm, split, loader, room_bytes, run_id)
    if decoded is None:
        return "not cached, they turned out to be more than there is room for"
    num_bytes = decoded.images.pixels_PC.numel()
    loader.use_decoded(decoded.to(device))
    _cached.add(loader)
    where = "in memory" if device.type == "cpu" else f"on {device.type}"
    return f"decoded once, {show_bytes(num_bytes)} {where}, {time.perf_counter() - start:.1f} s"


def _choose_device(
    strategy: Strategy, wanted: Literal["auto", "decoded", "device"], num_bytes: int, room_bytes: float
) -> tuple[torch.device | None, str]:
    """The same kind of device on every rank; or None, and the limit that forbids it."""
    if num_bytes > room_bytes:
        return None, f"data.cache_gib={room_bytes / 2**30:g}"
    is_cuda = strategy.device.type == "cuda"
    rooms = {"decoded": free_bytes(strategy.world.local_size > 1)}
    if is_cuda:
        taken_bytes = sum(loader.device_bytes for loader in _cached)
        rooms["device"] = (torch.cuda.mem_get_info(strategy.device)[0] + taken_bytes) // _DEVICE_SHARE - taken_bytes
    # The node with the least room decides.
    rooms = {place: min(each[place] for each in strategy.comm.all_gather_object(rooms)) for place in rooms}
    # On their way to a GPU they are in memory, too.
    if is_cuda and wanted != "decoded" and num_bytes <= min(rooms.values()):
        return strategy.device, ""
    if (wanted != "device" or not is_cuda) and num_bytes <= rooms["decoded"]:
        return torch.device("cpu"), ""
    return None, "the free memory allows"


def _decode(comm: Comm, split: str, loader: Loader, room_bytes: float, run_id: str) -> DecodedCache | None:
    """Every rank scans its part of all headers, and decodes its part of its node's images. None: no room."""
    world, reader = comm.world, loader.reader
    mine = part_ids(reader.num_images, world.size, world.rank)
    headers_N3 = np.concatenate(_gather(comm, lambda: scan_headers(reader, mine, loader.min_side)))
    num_bytes = 3 * int(headers_N3[:, :2].prod(axis=1).sum())
    if num_bytes > room_bytes:
        return None
    block_N = _new_block(comm, f"launcher-{run_id}-{split}-{world.node}", num_bytes)
    if block_N is None:
        return None
    decoded = lay_out(headers_N3, block_N.view(-1, 3))
    mine = part_ids(reader.num_images, world.local_size, world.local_rank)
    _gather(comm, lambda: decoded.fill(reader, mine, loader.min_side, loader.workers))
    return decoded


def _gather(comm: Comm, work: Callable[[], T]) -> list[T]:
    """The result of `work` on every rank; every rank raises the first one's DataError."""
    outcome: T | DataError
    try:
        outcome = work()
    except DataError as error:
        outcome = error
    results: list[T] = []
    for each in comm.all_gather_object(outcome):
        if isinstance(each, DataError):
            raise each
        results.append(each)
    return results


def _new_block(comm: Comm, name: str, num_bytes: int) -> Tensor | None:
    """bytes_N that the ranks of this node share; None on every rank when some node has no room.

    Every rank gathers twice, even one that is alone on its node: others may not be.
    """
    world = comm.world
    path, is_alone, is_leader = shared_folder() / name, world.local_size == 1, world.local_rank == 0
    try:
        if is_leader and not is_alone:
            path.unlink(missing_ok=True)  # left by a run that was killed between the lines below
            create_shared(path, num_bytes)
        has_room = True
    except OSError:
        has_room = False
    block_N = None
    try:
        if all(comm.all_gather_object(has_room)):
            block_N = torch.empty(num_bytes, dtype=torch.uint8) if is_alone else map_shared(path, num_bytes)
    except OSError:
        pass
    finally:
        is_ready = comm.all_gather_object(block_N is not None)
        if is_leader and not is_alone:
            path.unlink(missing_ok=True)  # its bytes stay as long as they are mapped
    return block_N if all(is_ready) else None
