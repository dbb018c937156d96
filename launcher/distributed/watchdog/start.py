"""Start the watchdogs of all ranks and connect them."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from launcher.distributed.comm import Comm
from launcher.distributed.watchdog.channel import Channel, NullChannel, open_coordinator, open_peer
from launcher.distributed.watchdog.detector import HangDetector
from launcher.distributed.watchdog.thread import NullWatchdog, ThreadWatchdog, Watchdog
from launcher.text import Say

REACH_S = 10.0
"""Longest wait for an answer of rank 0: it takes a millisecond where the network allows UDP."""


def start_watchdog(comm: Comm, timeout_s: float | None, logs: Path, record: Say, say: Say) -> Watchdog:
    """Called by every rank. `timeout_s`: time without progress after which all ranks end; None: no watchdog.

    `record` gets the line with which all ranks end, on rank 0. `say` gets the reason when there can be no watchdog.
    """
    if timeout_s is None:
        return NullWatchdog()
    world = comm.world
    channel: Channel | None = None
    address: tuple[str, int, str] | None = None
    if world.size == 1:
        channel = NullChannel()
    elif world.is_first:
        is_one_node = world.local_size == world.size
        with suppress(OSError):
            channel, address = open_coordinator(os.environ.get("MASTER_ADDR", "127.0.0.1"), is_one_node)
    address = comm.all_gather_object(address)[0]
    if not world.is_first and address is not None:
        with suppress(OSError):
            channel = open_peer(*address)
    watchdog: ThreadWatchdog | None = None
    if channel is not None:
        detector = HangDetector(world, comm.hosts, timeout_s)
        watchdog = ThreadWatchdog(detector, comm.beacon, channel, logs / f"rank-{world.rank}.log", record)
    is_reached = comm.all_gather_object(watchdog is not None and watchdog.reach(REACH_S))
    if watchdog is not None and all(is_reached):
        return watchdog
    if watchdog is not None:
        watchdog.close()
    rank = is_reached.index(False)
    reason = "rank 0 cannot listen" if address is None else f"rank {rank} cannot reach {address[0]}:{address[1]}"
    say(f"no hang detection: {reason} by UDP")
    return NullWatchdog()
