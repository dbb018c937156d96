"""Join the heartbeat of all processes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from launcher.distributed.strategy import Strategy
from launcher.distributed.watchdog.channel import Post, Postless, open_boss, open_follower
from launcher.distributed.watchdog.detector import Watch
from launcher.distributed.watchdog.thread import Heartbeat, NoHeartbeat

REACH_S = 10.0
"""For an answer of rank 0, which takes a millisecond where the network lets UDP through."""


def start_heartbeat(
    strategy: Strategy,
    timeout_s: float | None,
    logs: Path,
    record: Callable[[str], None],
    say: Callable[[str], None],
) -> NoHeartbeat:
    """Called by every process. `timeout_s`: without progress, after which all end; None: never.

    `record`: told on rank 0 why all end. `say`: told why hangs are not looked for, although they were to be.
    """
    if timeout_s is None:
        return NoHeartbeat()
    world = strategy.world

    def start(post: Postless) -> Heartbeat:
        watch = Watch(world, strategy.hosts, timeout_s)
        return Heartbeat(watch, strategy.pulse, post, logs / f"rank-{world.rank}.log", record)

    if world.size == 1:
        return start(Postless())
    post, invitation = _open_boss(world.local_size == world.size) if world.is_first else (None, None)
    heartbeat = start(post) if post is not None else NoHeartbeat()  # before anyone writes to it
    invitation = strategy.gather(invitation)[0]
    if not world.is_first and invitation is not None and (post := _open_follower(*invitation)) is not None:
        heartbeat = start(post)
    is_reached = strategy.gather(heartbeat.reach(REACH_S))
    if all(is_reached):
        return heartbeat
    heartbeat.close()
    where = "rank 0 cannot listen" if invitation is None else f"no way to {invitation[0]}:{invitation[1]}"
    say(f"hangs are not looked for: {where} by UDP from rank {is_reached.index(False)}")
    return NoHeartbeat()


def _open_boss(is_one_node: bool) -> tuple[Post, tuple[str, int, str]] | tuple[None, None]:
    try:
        post, host = open_boss(os.environ.get("MASTER_ADDR", "127.0.0.1"), is_one_node)
    except OSError:
        return None, None
    return post, (host, int(post.socket.getsockname()[1]), post.token)


def _open_follower(host: str, port: int, token: str) -> Post | None:
    try:
        return open_follower(host, port, token)
    except OSError:
        return None
