"""Threads that fetch shards before they are read. Needs no torch."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

from launcher.data.ids import Ids, Work
from launcher.errors import FetchError
from shards.manifest import Shard

AHEAD_IMAGES = 10_000
"""Images of the work that is known ahead."""

NUM_THREADS = 4

Fetch = Callable[[Shard], bool]
"""Fetch a shard; return whether it was downloaded just now. Raise FetchError."""


def look_ahead(
    work: Work, shards_with: Callable[[Ids], list[Shard]], fetch: Fetch, room_bytes: int
) -> Iterator[tuple[int, Ids]]:
    """The same work; threads fetch its shards in order, at most `room_bytes` of them before they are reached."""
    ahead = _Ahead(fetch, room_bytes)
    waiting: deque[tuple[tuple[int, Ids], list[Shard]]] = deque()
    num_images = 0
    try:
        for batch in work:
            shards = shards_with(batch[1])
            ahead.want(shards)
            waiting.append((batch, shards))
            num_images += len(batch[1])
            while num_images > AHEAD_IMAGES:
                due, shards = waiting.popleft()
                num_images -= len(due[1])
                ahead.reach(shards)
                yield due
        for due, shards in waiting:
            ahead.reach(shards)
            yield due
    finally:
        ahead.close()


class _Ahead:
    def __init__(self, fetch: Fetch, room_bytes: int) -> None:
        self._fetch = fetch
        self._room_bytes = room_bytes
        self._wanted: dict[str, Shard] = {}
        self._unread_bytes: dict[str, int] = {}
        """Bytes of the shards that are being fetched or were, and are not reached yet."""
        self._is_closed = False
        self._changed = threading.Condition()
        # Daemons: a program that ends does not wait for shards that it will not read; a later one completes them.
        for _ in range(NUM_THREADS):
            threading.Thread(target=self._work, name="ahead", daemon=True).start()

    def want(self, shards: list[Shard]) -> None:
        with self._changed:
            for shard in shards:
                if shard.name not in self._unread_bytes:
                    self._wanted.setdefault(shard.name, shard)
            self._changed.notify_all()

    def reach(self, shards: list[Shard]) -> None:
        """These shards are read now; the reader fetches those that are missing."""
        with self._changed:
            for shard in shards:
                self._wanted.pop(shard.name, None)
                self._unread_bytes.pop(shard.name, None)
            self._changed.notify_all()

    def close(self) -> None:
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _work(self) -> None:
        while (shard := self._take()) is not None:
            try:
                is_new = self._fetch(shard)
            except FetchError:
                is_new = False  # the reader of the shard meets the same error and reports it
            if not is_new:
                self.reach([shard])

    def _take(self) -> Shard | None:
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._has_next())
            if self._is_closed:
                return None
            shard = self._wanted.pop(next(iter(self._wanted)))
            self._unread_bytes[shard.name] = shard.num_bytes
            return shard

    def _has_next(self) -> bool:
        """Whether there is a shard to fetch, and room for it."""
        if not self._wanted:
            return False
        unread = sum(self._unread_bytes.values())
        return not unread or unread + next(iter(self._wanted.values())).num_bytes <= self._room_bytes
