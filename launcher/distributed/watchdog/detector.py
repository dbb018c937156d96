"""What a process knows of the others, and what follows. No clock, thread or socket of its own; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from launcher.distributed.watchdog.beacon import Pulse
from launcher.distributed.watchdog.channel import Message
from launcher.distributed.watchdog.hang import Beat, find_gone, find_hang
from launcher.distributed.world import World

GRACE_S = 3.0
"""A process that another has failed has this long to come down by itself."""

MAX_BEATS_PER_S = 500
"""That rank 0 answers: beats of very many processes come less often."""


@dataclass(frozen=True, slots=True)
class Failure:
    """`words`: who failed, and of what. `is_said`: that rank shows them itself, on its own node."""

    rank: int
    words: str
    is_said: bool


class Watch:
    """Rank 0 hears all and decides; the others hear rank 0, and decide when it is not to be heard any more."""

    def __init__(self, world: World, hosts: Sequence[str], timeout_s: float) -> None:
        self.world = world
        self.hosts = hosts
        self.timeout_s = timeout_s
        self.interval_s = min(max(1.0, world.size / MAX_BEATS_PER_S), timeout_s / 10)
        self.grace_s = max(GRACE_S, 3 * self.interval_s)
        self.beats: dict[int, Beat] = {}
        self.first: Failure | None = None
        """The first rank that failed, as rank 0 sees it."""
        self.is_decided = False
        self.over: str | None = None
        """Why everything ends here and now."""
        self._first_s = 0.0
        self._seen: tuple[object, str | None] = None, None
        self._moved_s = 0.0

    def look(self, pulse: Pulse, now_s: float) -> None:
        """Take this process's own beat."""
        at, place = pulse.at, pulse.place
        mine = self.beats.get(self.world.rank)
        if mine is not None and now_s - mine.heard_s > 5 * self.interval_s + 1:
            # Stopped as a whole (Ctrl-Z, `scontrol suspend`): all that stood still meanwhile has an excuse.
            self.beats = {rank: replace(beat, for_s=0.0, heard_s=now_s) for rank, beat in self.beats.items()}
            self._moved_s = now_s
        if at is not self._seen[0] or place != self._seen[1]:
            self._seen, self._moved_s = (at, place), now_s
        self.beats[self.world.rank] = Beat(at, place, now_s - self._moved_s, now_s)

    def say(self) -> Message:
        """For rank 0, or from rank 0 for another."""
        beat = self.beats[self.world.rank]
        return {
            "rank": self.world.rank,
            "beat": [*beat.at, beat.place, beat.for_s],
            "first": asdict(self.first) if self.first is not None else None,
            "over": self.over,
        }

    def hear(self, message: Message, now_s: float) -> None:
        phase, step, waits, place, for_s = message["beat"]
        self.beats[message["rank"]] = Beat((phase, step, waits), place, for_s, now_s)
        self.over = self.over or message["over"]
        if message["first"] is not None:
            self.blame(Failure(**message["first"]), now_s, is_decided=message["rank"] == 0 or self.world.is_first)

    def blame(self, failure: Failure, now_s: float, is_decided: bool) -> None:
        """Nobody is blamed after another, but that rank 0 knows better."""
        if self.first is None:
            self._first_s = now_s
        if self.first is None or (is_decided and not self.is_decided):
            self.first = failure
        self.is_decided = self.is_decided or is_decided

    def blame_who_is_gone(self, now_s: float) -> None:
        """A peer is lost, and nobody has said why."""
        others = {rank: beat for rank, beat in self.beats.items() if rank != self.world.rank}
        gone = find_gone(others, self.hosts, 2 * self.interval_s, now_s) if others else None
        if self.first is None and gone is not None:
            rank, words = gone
            words += f"; see logs/rank-{rank}.log in the run folder; the same command goes on"
            self.blame(Failure(rank, words, is_said=False), now_s, is_decided=self.world.is_first)

    def conclude(self, now_s: float) -> str | None:
        """Why this process is to end, unless it is doing so already."""
        if self.over is not None:
            return self.over
        if self.first is not None:
            is_late = self.first.rank != self.world.rank and now_s - self._first_s > self.grace_s
            return self.first.words if is_late else None
        if self.world.is_first:
            return find_hang(self.beats, self.hosts, self.timeout_s, now_s)
        boss = self.beats.get(0)
        if boss is None or boss.silent_s(now_s) <= self.timeout_s + 2 * self.interval_s:
            return None  # rank 0 decides
        return find_hang({0: boss}, self.hosts, self.timeout_s, now_s)

    def should_speak(self) -> bool:
        """Whether it is this process that tells the user: one on each console, and of a failure none twice."""
        if self.world.is_first:
            first = self.first
            return first is None or not first.is_said or self.hosts[first.rank] != self.hosts[0]
        is_lost = self.over is None and (self.first is None or (self.first.rank == 0 and not self.first.is_said))
        return is_lost and (self.world.rank == 1 or self.world.local_rank == 0)
