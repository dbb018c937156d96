"""Decides which splits are kept decoded, decodes them once, and hands them to their loaders. For every process."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from launcher.data.decoded import (
    Decoded,
    create_shared,
    estimate_pixels,
    fill,
    free_bytes,
    lay_out,
    map_shared,
    scan_heads,
    shared_folder,
)
from launcher.data.features import part_bounds, show_bytes
from launcher.data.loader import Loader
from launcher.recipe.schema import Data
from launcher.strategy import Strategy

Say = Callable[[str], None]
Place = Literal["decoded", "device"]

_DEVICE_SHARE = 4
"""`auto` takes at most this part of a GPU's free memory: the network needs the rest."""


def keep_decoded(
    strategy: Strategy,
    split: str,
    loader: Loader,
    data: Data,
    run_id: str,
    say: Say,
) -> None:
    """Decode a split into memory where `data.cache` and the room allow. Raise DataError when an image is damaged."""
    if data.cache == "none" or loader.is_decoded:
        return
    num_bytes = estimate_pixels(loader.reader) * loader.channels
    place, why = _choose_place(strategy, data.cache, num_bytes, data.cache_gib * 2**30)
    if place is None:
        say(f"images of {split}: not kept decoded, {show_bytes(num_bytes)} are over {why}")
        return
    start = time.perf_counter()
    decoded = _decode(strategy, split, loader, run_id)
    if decoded is None:
        say(f"images of {split}: not kept decoded, {shared_folder()} is full")
        return
    num_bytes = decoded.images.pixels_PC.numel()
    loader.use(decoded.to(strategy.device) if place == "device" else decoded)
    where = f"on {strategy.device.type}" if place == "device" else "in memory"
    say(f"images of {split}: decoded once, {show_bytes(num_bytes)} {where}, {time.perf_counter() - start:.1f} s")


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
    rooms = {place: min(each[place] for each in strategy.gather(rooms)) for place in rooms}
    if is_cuda and wanted != "decoded" and num_bytes <= rooms["device"]:
        return "device", ""
    if (wanted != "device" or not is_cuda) and num_bytes <= rooms["decoded"]:
        return "decoded", ""
    return None, "what memory has room for"


def _decode(strategy: Strategy, split: str, loader: Loader, run_id: str) -> Decoded | None:
    """Every process scans its part of all heads, and decodes its part of its node's images."""
    world, reader = strategy.world, loader.reader
    bounds = part_bounds(reader.num_images, world.size)
    facts_N3 = np.concatenate(strategy.gather(scan_heads(reader, np.arange(*bounds[world.rank : world.rank + 2]))))
    num_bytes = int(facts_N3[:, :2].prod(axis=1).sum()) * loader.channels
    block_N = _new_block(strategy, f"launcher-{run_id}-{split}-{world.node}", num_bytes)
    if block_N is None:
        return None
    decoded = lay_out(facts_N3, block_N.view(-1, loader.channels))
    bounds = part_bounds(reader.num_images, world.local_size)
    fill(decoded, reader, np.arange(*bounds[world.local_rank : world.local_rank + 2]), loader.workers)
    strategy.gather(None)
    return decoded


def _new_block(strategy: Strategy, name: str, num_bytes: int) -> Tensor | None:
    """bytes_N that the processes of this node share; None on all when some node has no room."""
    if strategy.world.local_size == 1:
        return torch.empty(num_bytes, dtype=torch.uint8)
    path, is_leader = shared_folder() / name, strategy.world.local_rank == 0
    try:
        if is_leader:
            path.unlink(missing_ok=True)  # of a run that was killed between the lines below
            create_shared(path, num_bytes)
        has_room = True
    except OSError:
        has_room = False
    if not all(strategy.gather(has_room)):
        if is_leader and has_room:
            path.unlink()
        return None
    block_N = map_shared(path, num_bytes)
    strategy.gather(None)
    if is_leader:
        path.unlink()  # nothing is left behind, however the run ends
    return block_N
