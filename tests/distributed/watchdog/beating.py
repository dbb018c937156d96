"""A process that only beats, with a fault: python beating.py RANK SIZE FOLDER FAULT. Needs no torch."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

from launcher.distributed.watchdog.beacon import Pulse
from launcher.distributed.watchdog.channel import Post, Postless, open_boss, open_follower
from launcher.distributed.watchdog.detector import Watch
from launcher.distributed.watchdog.thread import Heartbeat
from launcher.distributed.world import World

TIMEOUT_S = 1.0


def join(rank: int, folder: Path) -> Post:
    """Rank 0 leaves its address in the folder."""
    place = folder / "boss.json"
    if rank == 0:
        post, host = open_boss("127.0.0.1", is_one_node=True)
        (folder / "boss.tmp").write_text(json.dumps([host, post.socket.getsockname()[1], post.token]))
        (folder / "boss.tmp").rename(place)
        return post
    while not place.exists():
        time.sleep(0.01)
    return open_follower(*json.loads(place.read_text()))


def lose_a_peer(pulse: Pulse) -> None:
    """As gloo does, when the test has killed another process."""
    Path("ready").touch()
    while not Path("killed").exists():
        time.sleep(0.01)
    raise RuntimeError("Connection closed by peer [127.0.0.1]:1")


def hang_in_data(pulse: Pulse) -> None:
    pulse.readers.append(lambda: "train-00042.tar: image 17")
    pulse.at = ("data", 812, False)
    time.sleep(100)


def keep_the_lock(pulse: Pulse) -> None:
    pulse.at = ("forward", 812, False)
    time.sleep(0.3)  # a beat says so
    ctypes.PyDLL(None).sleep(100)


def fail(pulse: Pulse) -> None:
    time.sleep(0.5)
    raise ArithmeticError("broken on purpose")


def wait(pulse: Pulse) -> None:
    pulse.at = ("reduce", 812, True)
    Path("ready").touch()
    time.sleep(100)


def turn(pulse: Pulse) -> None:
    """Comes to the others all the time."""
    Path("ready").touch()
    while True:
        with pulse.waiting():
            time.sleep(0.05)


def move(pulse: Pulse) -> None:
    """Slowly, but it does: and then the end, in order."""
    for step in range(5):
        pulse.at = ("data", step, False)
        time.sleep(TIMEOUT_S / 2)


def prepare(pulse: Pulse) -> None:
    """Compiles, say."""
    pulse.enter("prepare")
    time.sleep(2.5 * TIMEOUT_S)


FAULTS = {
    "data": hang_in_data,
    "lock": keep_the_lock,
    "lost": lose_a_peer,
    "fail": fail,
    "wait": wait,
    "turn": turn,
    "move": move,
    "prepare": prepare,
}


def main(rank: int, size: int, folder: Path, fault: str) -> int:
    world = World(rank, size, rank, size)
    hosts = [f"node{rank // 2 + 1}" for rank in range(size)]
    pulse = Pulse()
    watch = Watch(world, hosts, TIMEOUT_S)
    watch.grace_s = 1.0
    post = join(rank, folder) if size > 1 else Postless()
    heartbeat = Heartbeat(watch, pulse, post, Path(f"rank-{rank}.log"))
    assert heartbeat.reach(10)
    while len(list(folder.glob("reached-*"))) < size:
        (folder / f"reached-{rank}").touch()
        time.sleep(0.01)
    try:
        FAULTS[fault](pulse)
    except Exception as error:
        lost = heartbeat.fail(error)
        if lost is None:
            print("own:", type(error).__name__, file=sys.stderr)
        elif lost.speaks:
            print("lost:", lost, file=sys.stderr)
        time.sleep(0.5)
        return 1
    finally:
        heartbeat.close()
    return 0


if __name__ == "__main__":
    code = main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    sys.stderr.flush()
    os._exit(code)
