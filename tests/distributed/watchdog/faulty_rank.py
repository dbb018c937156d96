"""A rank that only sends heartbeats, and has a fault: python faulty_rank.py RANK SIZE FOLDER FAULT. Needs no torch."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from pathlib import Path

from launcher.distributed.watchdog.beacon import Beacon, Position
from launcher.distributed.watchdog.channel import NullChannel, UdpChannel, open_coordinator, open_peer
from launcher.distributed.watchdog.detector import HangDetector
from launcher.distributed.watchdog.thread import ThreadWatchdog
from launcher.distributed.world import World

TIMEOUT_S = 1.0


def join(rank: int, folder: Path) -> UdpChannel:
    """Open this rank's channel. Rank 0 writes its address into the folder."""
    file = folder / "rank-0-address.json"
    if rank == 0:
        channel, address = open_coordinator("127.0.0.1", is_one_node=True)
        (folder / "rank-0-address.tmp").write_text(json.dumps(address))
        (folder / "rank-0-address.tmp").rename(file)
        return channel
    while not file.exists():
        time.sleep(0.01)
    return open_peer(*json.loads(file.read_text()))


def lose_a_peer(beacon: Beacon) -> None:
    """Fail as gloo does once the test has killed another rank."""
    Path("ready").touch()
    while not Path("killed").exists():
        time.sleep(0.01)
    raise RuntimeError("Connection closed by peer [127.0.0.1]:1")


def hang_in_data(beacon: Beacon) -> None:
    beacon.readers.append(lambda: "train-00042.tar: image 17")
    beacon.enter("data", 812)
    time.sleep(100)


def keep_the_lock(beacon: Beacon) -> None:
    beacon.enter("forward", 812)
    time.sleep(0.3)  # for a heartbeat
    ctypes.PyDLL(None).sleep(100)


def fail(beacon: Beacon) -> None:
    time.sleep(0.5)
    raise ArithmeticError("broken on purpose")


def wait(beacon: Beacon) -> None:
    beacon.position = Position("reduce", 812, True)
    Path("ready").touch()
    time.sleep(100)


def turn(beacon: Beacon) -> None:
    """Make progress from one short collective to the next."""
    Path("ready").touch()
    while True:
        with beacon.waiting():
            time.sleep(0.05)


def move(beacon: Beacon) -> None:
    """Make progress, slowly, and end in order."""
    for step in range(5):
        beacon.enter("data", step)
        time.sleep(TIMEOUT_S / 2)


def prepare(beacon: Beacon) -> None:
    """Take longer than the timeout in a phase that may, as compiling does."""
    beacon.enter("prepare")
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
    beacon = Beacon()
    detector = HangDetector(world, hosts, TIMEOUT_S)
    detector.grace_s = 1.0
    channel = join(rank, folder) if size > 1 else NullChannel()
    watchdog = ThreadWatchdog(detector, beacon, channel, Path(f"rank-{rank}.log"), lambda line: None)
    assert watchdog.reach(10)
    while len(list(folder.glob("reached-*"))) < size:
        (folder / f"reached-{rank}").touch()
        time.sleep(0.01)
    try:
        FAULTS[fault](beacon)
    except Exception as error:
        lost = watchdog.fail(error)
        if lost is None:
            print("own:", type(error).__name__, file=sys.stderr)
        elif lost.should_print:
            print("lost:", lost, file=sys.stderr)
        time.sleep(0.5)
        return 1
    finally:
        watchdog.close()
    return 0


if __name__ == "__main__":
    code = main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
    sys.stderr.flush()
    os._exit(code)
