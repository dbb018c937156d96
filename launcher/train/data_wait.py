"""The time that training waits for its batches: by the clock of the host on a CPU, by that of the GPU on a GPU.

A host queues steps ahead of its GPU, and then waits for the next batch while the GPU still computes: its waits say
little. What training loses is the time in which the GPU has nothing to do.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from launcher.augment.arrays import INT64
from launcher.augment.execute import Augment
from launcher.augment.images import ImageBatch
from launcher.data.feed import Examples, Feed, ImageFeed
from launcher.data.ids import Work


class Event(Protocol):
    """A place in the current stream, with the time at which the GPU gets there: part of `torch.cuda.Event`."""

    def record(self) -> None: ...

    def query(self) -> bool:
        """Whether the GPU has been there."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds from here to there."""


class DataWait(Protocol):
    def watch(self, feed: Feed, work: Work) -> Iterator[Examples]:
        """The feed's examples, for the steps of a training."""

    def take_s(self, host_wait_s: float) -> float:
        """The wait since the last call. `host_wait_s`: that of the host for the feed, since then."""


class HostWait:
    """For a CPU: nothing else goes on while it waits."""

    def watch(self, feed: Feed, work: Work) -> Iterator[Examples]:
        return feed.batches(work)

    def take_s(self, host_wait_s: float) -> float:
        return host_wait_s


class GpuWait:
    """The time from the last kernel of a batch to the first of the next, by events: nothing waits for them.

    The first kernel of images is the first of their augmentation, once they are on the GPU. What comes before the first
    batch, and between two steps, such as a validation, does not count.
    """

    def __init__(self, new_event: Callable[[], Event]) -> None:
        self._new_event = new_event
        self._ended: Event | None = None
        """Recorded behind the last kernel, while the next batch has not begun."""
        self._gaps: deque[tuple[Event, Event]] = deque()
        """Those that the GPU may not have reached yet."""

    def watch(self, feed: Feed, work: Work) -> Iterator[Examples]:
        self._ended = None
        if isinstance(feed, ImageFeed):
            feed = replace(feed, augment=_Announced.of(feed.augment, self._begin))
        batches = feed.batches(work)
        examples = next(batches, None)
        while examples is not None:
            self._begin()  # features are not augmented
            yield examples
            self._ended = self._mark()
            examples = next(batches, None)

    def take_s(self, host_wait_s: float) -> float:
        """The newest gaps, which the GPU has yet to reach, are in the result of a later call."""
        wait_s = 0.0
        while self._gaps and self._gaps[0][1].query():
            ended, began = self._gaps.popleft()
            wait_s += ended.elapsed_time(began) / 1000
        return wait_s

    def _begin(self) -> None:
        """The first kernel of a batch comes next."""
        if self._ended is not None:
            self._gaps.append((self._ended, self._mark()))
            self._ended = None

    def _mark(self) -> Event:
        event = self._new_event()
        event.record()
        return event


@dataclass(frozen=True)
class _Announced(Augment):
    """An augmentation that calls `announce` before it begins: on a GPU always in the training's own thread."""

    announce: Callable[[], None] = lambda: None

    @classmethod
    def of(cls, augment: Augment, announce: Callable[[], None]) -> _Announced:
        return cls(**{each.name: getattr(augment, each.name) for each in fields(augment)}, announce=announce)

    def __call__(self, images: ImageBatch, ids_B: INT64, seed: int, view: int) -> Tensor:
        self.announce()
        return super().__call__(images, ids_B, seed, view)


def build_data_wait(device: torch.device) -> DataWait:
    return GpuWait(_new_event) if device.type == "cuda" else HostWait()


def _new_event() -> Event:
    return torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
