"""The time of training steps, by a clock that the test sets."""

from __future__ import annotations

import pytest

from launcher.data.encoded import InputTimes
from launcher.train.timing import StepTimer


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds; its one value is the time."""
    now = [100.0]
    monkeypatch.setattr("launcher.train.timing.time.perf_counter", lambda: now[0])
    return now


def test_pauses_do_not_count(clock: list[float]) -> None:
    timer, feed = StepTimer(), InputTimes()
    timer.resume(feed)
    clock[0] += 4
    feed.wait_s += 1
    timer.images += 40
    timer.pause()
    clock[0] += 1000  # a validation, which reads from the same feed or another
    feed.wait_s += 500
    timer.resume(feed)
    clock[0] += 6
    feed.wait_s += 4
    timer.images += 60
    timer.pause()
    assert timer.train_s == 10
    assert timer.totals() == {"images_per_s": 10.0, "data_wait_frac": 0.5}


def test_a_lap_has_what_came_since_the_last(clock: list[float]) -> None:
    timer, feed = StepTimer(), InputTimes()
    timer.resume(feed)
    laps = []
    for images, seconds, wait_s in ((10, 1, 0.0), (10, 2, 1.0), (10, 0, 0.0)):
        clock[0] += seconds
        feed.wait_s += wait_s
        timer.images += images
        laps.append(timer.lap())
    assert laps[0] == {"images_per_s": 10.0, "data_wait_frac": 0.0}
    assert laps[1] == {"images_per_s": 5.0, "data_wait_frac": 0.5}
    assert laps[2] == {"images_per_s": 0.0, "data_wait_frac": 0.0}, "no time is no rate"
    assert timer.totals()["images_per_s"] == 10.0


def test_a_new_feed_begins_at_nothing(clock: list[float]) -> None:
    """A later stage reads from another feed, which has waited before it was the training's."""
    timer = StepTimer()
    timer.resume(InputTimes(wait_s=7))
    timer.pause()
    timer.resume(InputTimes(wait_s=90))
    clock[0] += 1
    timer.pause()
    assert timer.input.wait_s == 0
