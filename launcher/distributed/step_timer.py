"""How long a process takes for its own part of a step, without its waits for the others."""

from __future__ import annotations

import time
from collections import deque

import torch


class NoPace:
    """Of a process that has no others to be compared with."""

    work_s = 0.0
    """Seconds so far."""

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass


class Pace(NoPace):
    """From the beginning of a forward pass until its gradients are there, summed. On a GPU: time of the GPU."""

    def __init__(self, device: torch.device) -> None:
        self._is_cuda = device.type == "cuda"
        self._since_s = 0.0
        self._start: torch.cuda.Event | None = None
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def begin(self) -> None:
        if self._is_cuda:
            self._start = _mark()
        self._since_s = time.perf_counter()

    def end(self) -> None:
        if self._start is None:
            self.work_s += time.perf_counter() - self._since_s
            return
        self._pairs.append((self._start, _mark()))
        self._collect()

    def _collect(self) -> None:
        """Only what is over: nothing waits for the GPU."""
        while self._pairs and self._pairs[0][1].query():  # type: ignore[no-untyped-call]
            start, end = self._pairs.popleft()
            self.work_s += start.elapsed_time(end) / 1000


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
