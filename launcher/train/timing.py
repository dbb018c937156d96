"""The time of this process's training steps since it started, and the part that its input took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from launcher.data.encoded import InputTimes
from launcher.data.feed import Examples, Feed
from launcher.data.ids import Work
from launcher.metrics.names import Metrics
from launcher.train.data_wait import DataWait, HostWait, build_data_wait


class StepTimer:
    """Runs while steps run: not while the network is evaluated or saved."""

    def __init__(self) -> None:
        self.images = 0
        """Images trained on, over all ranks."""
        self.train_s = 0.0
        self.input = InputTimes()
        """`wait_s`: on a GPU, the time that it had nothing to do for lack of a batch."""
        self._data_wait: DataWait = HostWait()
        self._started_s = time.perf_counter()
        self._feed_times = InputTimes()
        self._before = InputTimes()
        self._lap = 0, 0.0, 0.0

    def watch(self, feed: Feed, work: Work, device: torch.device) -> Iterator[Examples]:
        """The feed's examples, for steps on `device`: from now on the waits for them are measured there."""
        self._data_wait = build_data_wait(device)
        return self._data_wait.watch(feed, work)

    def resume(self, feed_times: InputTimes) -> None:
        """`feed_times`: those of the training's feed, which keeps counting them."""
        self._feed_times, self._before = feed_times, replace(feed_times)
        self._started_s = time.perf_counter()

    def pause(self) -> None:
        """Add up the time since `resume`; what follows does not count until the next `resume`."""
        self._add_up()

    def _add_up(self) -> None:
        now_s = time.perf_counter()
        self.train_s += now_s - self._started_s
        times = self._feed_times.since(self._before)
        self.input.add(replace(times, wait_s=self._data_wait.take_s(times.wait_s)))
        self._before = replace(self._feed_times)
        self._started_s = now_s

    def lap(self) -> Metrics:
        """`images_per_s` and `data_wait_frac` since the last lap."""
        self._add_up()
        images, train_s, wait_s = self._lap
        self._lap = self.images, self.train_s, self.input.wait_s
        return _rates(self.images - images, self.train_s - train_s, self.input.wait_s - wait_s)

    def totals(self) -> Metrics:
        """`images_per_s` and `data_wait_frac` since the process started."""
        return _rates(self.images, self.train_s, self.input.wait_s)


def _rates(images: int, train_s: float, wait_s: float) -> Metrics:
    return {
        "images_per_s": round(images / train_s, 1) if train_s else 0.0,
        "data_wait_frac": round(min(wait_s / train_s, 1.0), 4) if train_s else 0.0,
    }
