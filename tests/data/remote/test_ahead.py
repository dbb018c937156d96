"""Shards fetched ahead of the work that needs them: in order, and not too many."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from launcher.data.ids import Ids
from launcher.data.remote import ahead
from launcher.data.remote.ahead import look_ahead
from launcher.errors import FetchError
from shards.manifest import Shard

SHARDS = [Shard(f"{number}.tar", "train", 10, 100, "") for number in range(20)]


def shards_with(ids_B: Ids) -> list[Shard]:
    return [SHARDS[number] for number in dict.fromkeys((ids_B // 10).tolist())]


def work_of(num_images: int = 200) -> Iterator[tuple[int, Ids]]:
    return ((0, np.arange(first, first + 5)) for first in range(0, num_images, 5))


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


class RecordedFetch:
    """A fetch that records the names of shards."""

    def __init__(self) -> None:
        self.fetched: list[str] = []

    def __call__(self, shard: Shard) -> bool:
        if shard.name in self.fetched:
            return False
        self.fetched.append(shard.name)
        return True


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ahead, "NUM_THREADS", 1)


def test_the_work_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for images in (0, 12, 10_000):
        monkeypatch.setattr(ahead, "AHEAD_IMAGES", images)
        given = [ids_B.tolist() for _, ids_B in look_ahead(work_of(), shards_with, RecordedFetch(), 300)]
        assert given == [ids_B.tolist() for _, ids_B in work_of()]


def test_shards_are_fetched_in_order_and_no_more_than_there_is_room_for() -> None:
    fetch = RecordedFetch()
    work = look_ahead(work_of(), shards_with, fetch, 300)
    next(work)
    wait_until(lambda: len(fetch.fetched) >= 3)
    time.sleep(0.05)
    assert len(fetch.fetched) <= 4  # three ahead of the one that is read now, which may have been fetched earlier
    for _ in range(8):
        next(work)
    wait_until(lambda: fetch.fetched[-1] in ("7.tar", "6.tar"))
    assert fetch.fetched == sorted(fetch.fetched, key=lambda name: int(name[:-4]))
    assert len(list(work)) == 31


def test_shards_that_are_there_take_no_room() -> None:
    fetch = RecordedFetch()
    fetch.fetched = [shard.name for shard in SHARDS[:15]]
    work = look_ahead(work_of(), shards_with, fetch, 300)
    next(work)
    wait_until(lambda: fetch.fetched[-1] == "17.tar")
    assert fetch.fetched[15:] == ["15.tar", "16.tar", "17.tar"]


def test_a_failed_fetch_is_left_to_the_reader() -> None:
    def fail(shard: Shard) -> bool:
        raise FetchError(shard.name)

    assert len(list(look_ahead(work_of(), shards_with, fail, 300))) == 40


def fetching_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "ahead"}


def test_threads_end_with_the_work() -> None:
    others = fetching_threads()  # of earlier tests, which may end at any time
    work = look_ahead(work_of(), shards_with, RecordedFetch(), 300)
    next(work)
    assert len(fetching_threads() - others) == 1
    del work
    wait_until(lambda: not fetching_threads() - others)
    list(look_ahead(work_of(), shards_with, RecordedFetch(), 300))
    wait_until(lambda: not fetching_threads() - others)
