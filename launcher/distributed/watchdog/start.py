"""Join the watchdog of all ranks."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from launcher.distributed.comm import Comm
from launcher.distributed.watchdog.channel import Channel, NullChannel, UdpChannel, open_coordinator, open_peer
from launcher.distributed.watchdog.detector import HangDetector
from launcher.distributed.watchdog.thread import NullWatchdog, ThreadWatchdog, Watchdog

REACH_S = 10.0
"""Time for an answer of rank 0, which takes a millisecond where the network lets UDP through."""


def start_watchdog(
    comm: Comm, timeout_s: float | None, logs: Path, record: Callable[[str], None], say: Callable[[str], None]
) -> Watchdog:
    """Called by every rank. `timeout_s`: without progress, after which all end; None: never.

    `record` gets, on rank 0, the line that ends all; `say` gets why hangs are not looked for although they were to be.
    """
    if timeout_s is None:
        return NullWatchdog()
    world = comm.world

    def start(channel: Channel) -> ThreadWatchdog:
        detector = HangDetector(world, comm.hosts, timeout_s)
        return ThreadWatchdog(detector, comm.beacon, channel, logs / f"rank-{world.rank}.log", record)

    if world.size == 1:
        return start(NullChannel())
    channel, invitation = _open_coordinator(world.local_size == world.size) if world.is_first else (None, None)
    watchdog: Watchdog = start(channel) if channel is not None else NullWatchdog()  # before any rank writes to it
    invitation = comm.all_gather_object(invitation)[0]
    if not world.is_first and invitation is not None and (channel := _open_peer(*invitation)) is not None:
        watchdog = start(channel)
    is_reached = comm.all_gather_object(watchdog.reach(REACH_S))
    if all(is_reached):
        return watchdog
    watchdog.close()
    where = "rank 0 cannot listen" if invitation is None else f"no way to {invitation[0]}:{invitation[1]}"
    say(f"hangs are not looked for: {where} by UDP from rank {is_reached.index(False)}")
    return NullWatchdog()


def _open_coordinator(is_one_node: bool) -> tuple[UdpChannel, tuple[str, int, str]] | tuple[None, None]:
    try:
        channel, host = open_coordinator(os.environ.get("MASTER_ADDR", "127.0.0.1"), is_one_node)
    except OSError:
        return None, None
    return channel, (host, int(channel.socket.getsockname()[1]), channel.token)


def _open_peer(host: str, port: int, token: str) -> UdpChannel | None:
    try:
        return open_peer(host, port, token)
    except OSError:
        return None
