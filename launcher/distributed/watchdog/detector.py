"""The state of all ranks as one rank knows it, and its conclusions. No clock, thread or socket; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from launcher.distributed.watchdog.beacon import Beacon, Position
from launcher.distributed.watchdog.channel import Message
from launcher.distributed.watchdog.hang import Heartbeat, find_gone, find_hang
from launcher.distributed.world import World

GRACE_S = 3.0
"""Time for a rank to end by itself after the failure of another."""

MAX_HEARTBEATS_PER_S = 500
"""Heartbeats that rank 0 answers; with very many ranks each sends fewer."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`text`: which rank failed, and why. `is_printed`: whether that rank prints it itself, on its own node."""

    rank: int
    text: str
    is_printed: bool


class HangDetector:
    """Rank 0 receives the heartbeats of all and decides. The others receive rank 0's, and decide once it is silent."""

    def __init__(self, world: World, hosts: Sequence[str], timeout_s: float) -> None:
        self.world = world
        self.hosts = hosts
        self.timeout_s = timeout_s
        self.interval_s = min(max(1.0, world.size / MAX_HEARTBEATS_PER_S), timeout_s / 10)
        self.grace_s = max(GRACE_S, 3 * self.interval_s)
        self.heartbeats: dict[int, Heartbeat] = {}
        self.first: Failure | None = None
        """The first failure; `is_decided`: rank 0 has confirmed it."""
        self.is_decided = False
        self.ending: str | None = None
        """The line with which every rank ends now."""
        self._first_s = 0.0
        self._seen: tuple[object, str | None] = None, None
        self._progress_s = 0.0

    def update(self, beacon: Beacon, now_s: float) -> None:
        """Take this rank's own heartbeat."""
        position, reading = beacon.position, beacon.reading()
        mine = self.heartbeats.get(self.world.rank)
        if mine is not None and now_s - mine.received_s > 5 * self.interval_s + 1:
            # This process was stopped (Ctrl-Z, `scontrol suspend`), perhaps with all others: count from now.
            self.heartbeats = {r: replace(each, idle_s=0.0, received_s=now_s) for r, each in self.heartbeats.items()}
            self._progress_s = now_s
        if position is not self._seen[0] or reading != self._seen[1]:
            self._seen, self._progress_s = (position, reading), now_s
        self.heartbeats[self.world.rank] = Heartbeat(position, reading, now_s - self._progress_s, now_s)

    def message(self) -> Message:
        """This rank's message to rank 0, or rank 0's to another."""
        mine = self.heartbeats[self.world.rank]
        return {
            "rank": self.world.rank,
            "heartbeat": [*mine.position, mine.reading, mine.idle_s],
            "first": asdict(self.first) if self.first is not None else None,
            "ending": self.ending,
        }

    def receive(self, message: Message, now_s: float) -> None:
        phase, step, is_waiting, reading, idle_s = message["heartbeat"]
        self.heartbeats[message["rank"]] = Heartbeat(Position(phase, step, is_waiting), reading, idle_s, now_s)
        self.ending = self.ending or message["ending"]
        if message["first"] is not None:
            is_decided = message["rank"] == 0 or self.world.is_first
            self.blame(Failure(**message["first"]), now_s, is_decided=is_decided)

    def blame(self, failure: Failure, now_s: float, is_decided: bool) -> None:
        """The first failure wins; only rank 0 may replace it."""
        if self.first is None:
            self._first_s = now_s
        if self.first is None or (is_decided and not self.is_decided):
            self.first = failure
        self.is_decided = self.is_decided or is_decided

    def blame_lost_rank(self, now_s: float) -> None:
        """Blame the rank that is silent, when this rank lost a peer and no rank has reported a failure."""
        others = {rank: heartbeat for rank, heartbeat in self.heartbeats.items() if rank != self.world.rank}
        gone = find_gone(others, self.hosts, 2 * self.interval_s, now_s) if others else None
        if self.first is None and gone is not None:
            rank, text = gone
            text += f"; see logs/rank-{rank}.log in the run folder; the same command resumes"
            self.blame(Failure(rank, text, is_printed=False), now_s, is_decided=self.world.is_first)

    def conclude(self, now_s: float) -> str | None:
        """The line with which this process must end; None while it need not, or when it is ending by itself."""
        if self.ending is not None:
            return self.ending
        if self.first is not None:
            is_late = self.first.rank != self.world.rank and now_s - self._first_s > self.grace_s
            return self.first.text if is_late else None
        if self.world.is_first:
            return find_hang(self.heartbeats, self.hosts, self.timeout_s, now_s)
        rank0 = self.heartbeats.get(0)
        if rank0 is None or rank0.silent_s(now_s) <= self.timeout_s + 2 * self.interval_s:
            return None  # rank 0 decides
        return find_hang({0: rank0}, self.hosts, self.timeout_s, now_s)

    def should_print(self) -> bool:
        """Whether this rank prints the line: one rank on each console, and each failure once."""
        if self.world.is_first:
            first = self.first
            return first is None or not first.is_printed or self.hosts[first.rank] != self.hosts[0]
        is_lost = self.ending is None and (self.first is None or (self.first.rank == 0 and not self.first.is_printed))
        return is_lost and (self.world.rank == 1 or self.world.local_rank == 0)
