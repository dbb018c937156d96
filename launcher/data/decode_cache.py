"""Decides which splits are kept decoded, decodes them once, and hands them to their loaders. For every process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from launcher.data.decoded import (
    DecodedCache,
    create_shared,
    estimate_pixels,
    fill,
    free_bytes,
    lay_out,
    map_shared,
    scan_heads,
    shared_folder,
)
from launcher.data.features.format import part_bounds
from launcher.data.loader import Loader
from launcher.data.order import Ids
from launcher.distributed.strategy import Strategy
from launcher.errors import DataError
from launcher.recipe.schema import Data
from launcher.text import Say, show_bytes

T = TypeVar("T")
Place = Literal["decoded", "device"]

_DEVICE_SHARE = 4
"""Of a GPU's free memory images take one part in so many: the network needs the rest."""


def cache_decoded(
    strategy: Strategy,
    split: str,
    loader: Loader,
    data: Data,
    run_id: str,
    say: Say,
) -> None:
    """Decode a split into memory where `data.cache` and the room allow. Raise DataError when an image is damaged."""
    if loader.is_decoded:
        return
    try:
        say(f"images of {split}: {_keep(strategy, split, loader, data, run_id)}")
    except DataError as error:
        if data.on_error == "fail":
            raise
        say(f"images of {split}: not kept decoded, one is skipped: {error}")


def _keep(strategy: Strategy, split: str, loader: Loader, data: Data, run_id: str) -> str:
    """What became of it. Raise DataError on every process when an image is damaged."""
    assert data.cache != "none"
    estimates = _together(strategy, lambda: estimate_pixels(loader.reader, loader.min_side))
    num_bytes, room_bytes = 3 * estimates[0], data.cache_gib * 2**30
    place, why = _choose_place(strategy, data.cache, num_bytes, room_bytes)
    if place is None:
        return f"not kept decoded, {show_bytes(num_bytes)} are over {why}"
    start = time.perf_counter()
    decoded = _decode(strategy, split, loader, room_bytes, run_id)
    if decoded is None:
        return "not kept decoded, there is no room for them after all"
    num_bytes = decoded.images.pixels_PC.numel()
    loader.use_decoded(decoded.to(strategy.device) if place == "device" else decoded)
    where = f"on {strategy.device.type}" if place == "device" else "in memory"
    return f"decoded once, {show_bytes(num_bytes)} {where}, {time.perf_counter() - start:.1f} s"


def _choose_place(
    strategy: Strategy, wanted: Literal["auto", "decoded", "device"], num_bytes: int, room_bytes: float
) -> tuple[Place | None, str]:
    """Where, the same on every process; or None, and the limit that is in the way."""
    if num_bytes > room_bytes:
        return None, f"data.cache_gib, {room_bytes / 2**30:g}"
    is_cuda = strategy.device.type == "cuda"
    rooms = {"decoded": free_bytes(strategy.world.local_size > 1)}
    if is_cuda:
        rooms["device"] = torch.cuda.mem_get_info(strategy.device)[0] // _DEVICE_SHARE
    # The node with the least room decides.
    rooms = {place: min(each[place] for each in strategy.comm.all_gather_object(rooms)) for place in rooms}
    # On its way to a GPU it is in memory, too.
    if is_cuda and wanted != "decoded" and num_bytes <= min(rooms.values()):
        return "device", ""
    if (wanted != "device" or not is_cuda) and num_bytes <= rooms["decoded"]:
        return "decoded", ""
    return None, "what memory has room for"


def _decode(strategy: Strategy, split: str, loader: Loader, room_bytes: float, run_id: str) -> DecodedCache | None:
    """Every process scans its part of all heads, and decodes its part of its node's images. None: there is no room."""
    world, reader = strategy.world, loader.reader
    mine = _part(reader.num_images, world.size, world.rank)
    facts_N3 = np.concatenate(_together(strategy, lambda: scan_heads(reader, mine, loader.min_side)))
    num_bytes = 3 * int(facts_N3[:, :2].prod(axis=1).sum())
    if num_bytes > room_bytes:
        return None
    block_N = _new_block(strategy, f"launcher-{run_id}-{split}-{world.node}", num_bytes)
    if block_N is None:
        return None
    decoded = lay_out(facts_N3, block_N.view(-1, 3))
    mine = _part(reader.num_images, world.local_size, world.local_rank)
    _together(strategy, lambda: fill(decoded, reader, mine, loader.min_side, loader.workers))
    return decoded


def _part(num_images: int, num_parts: int, number: int) -> Ids:
    return np.arange(*part_bounds(num_images, num_parts)[number : number + 2])


def _together(strategy: Strategy, work: Callable[[], T]) -> list[T]:
    """Every process's result, in the order of ranks; the first one's DataError is raised by all of them."""
    outcome: T | DataError
    try:
        outcome = work()
    except DataError as error:
        outcome = error
    results: list[T] = []
    for each in strategy.comm.all_gather_object(outcome):
        if isinstance(each, DataError):
            raise each
        results.append(each)
    return results


def _new_block(strategy: Strategy, name: str, num_bytes: int) -> Tensor | None:
    """bytes_N that the processes of this node share; None on all when some node has no room.

    Every process gathers twice, also one that is alone on its node: others may not be.
    """
    world = strategy.world
    path, is_alone, is_leader = shared_folder() / name, world.local_size == 1, world.local_rank == 0
    try:
        if is_leader and not is_alone:
            path.unlink(missing_ok=True)  # of a run that was killed between the lines below
            create_shared(path, num_bytes)
        has_room = True
    except OSError:
        has_room = False
    block_N = None
    try:
        if all(strategy.comm.all_gather_object(has_room)):
            block_N = torch.empty(num_bytes, dtype=torch.uint8) if is_alone else map_shared(path, num_bytes)
    except OSError:
        pass
    finally:
        is_ready = strategy.comm.all_gather_object(block_N is not None)
        if is_leader and not is_alone:
            path.unlink(missing_ok=True)  # its bytes stay as long as they are mapped
    return block_N if all(is_ready) else None
