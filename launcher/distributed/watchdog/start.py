"""Start the watchdogs of all ranks and connect them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from launcher.distributed.comm import Comm
from launcher.distributed.watchdog.channel import Channel, NullChannel, UdpChannel, open_coordinator, open_peer
from launcher.distributed.watchdog.detector import HangDetector
from launcher.distributed.watchdog.thread import NullWatchdog, ThreadWatchdog, Watchdog
from launcher.text import Say

REACH_S = 10.0
"""Longest wait for an answer of rank 0: it takes a millisecond where the network allows UDP."""


def start_watchdog(
    comm: Comm, timeout_s: float | None, logs: Path, record: Callable[[str], None], say: Say
) -> Watchdog:
    """Called by every rank. `timeout_s`: time without progress after which all ranks end; None: no watchdog.

    `record` gets the line with which all ranks end, on rank 0. `say` gets the reason when there can be no watchdog.
    """
    if timeout_s is None:
        return NullWatchdog()
    world = comm.world

    def start(channel: Channel) -> ThreadWatchdog:
        detector = HangDetector(world, comm.hosts, timeout_s)
        return ThreadWatchdog(detector, comm.beacon, channel, logs / f"rank-{world.rank}.log", record)

    if world.size == 1:
        return start(NullChannel())
    channel, address = _open_coordinator(world.local_size == world.size) if world.is_first else (None, None)
    watchdog: Watchdog = start(channel) if channel is not None else NullWatchdog()  # before any rank sends to it
    address = comm.all_gather_object(address)[0]
    if not world.is_first and address is not None and (channel := _open_peer(*address)) is not None:
        watchdog = start(channel)
    is_reached = comm.all_gather_object(watchdog.reach(REACH_S))
    if all(is_reached):
        return watchdog
    watchdog.close()
    rank = is_reached.index(False)
    reason = "rank 0 cannot listen" if address is None else f"rank {rank} cannot reach {address[0]}:{address[1]}"
    say(f"no hang detection: {reason} by UDP")
    return NullWatchdog()


def _open_coordinator(is_one_node: bool) -> tuple[UdpChannel, tuple[str, int, str]] | tuple[None, None]:
    """Rank 0's channel, and (host, port, token) for `open_peer`; None twice when it cannot listen."""
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
