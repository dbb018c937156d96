"""Compute time of a rank in each step, without its waits for the others: tells slow ranks from waiting ones."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import torch


class ComputeTimer(Protocol):
    """Sums the time from the start of a forward pass to the end of its backward pass, without the gradient exchange."""

    @property
    def compute_s(self) -> float:
        """Seconds so far."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


class NullComputeTimer:
    """For a single process: there is no other rank to compare it with."""

    compute_s = 0.0

    def begin(self) -> None:
        pass

    def end(self) -> None:
        pass


class CpuComputeTimer:
    def __init__(self) -> None:
        self.compute_s = 0.0
        self._began_s = 0.0

    def begin(self) -> None:
        self._began_s = time.perf_counter()

    def end(self) -> None:
        self.compute_s += time.perf_counter() - self._began_s


class CudaComputeTimer:
    """Time on the GPU, by CUDA events that are read once they are complete: nothing waits for them."""

    def __init__(self) -> None:
        self.compute_s = 0.0
        self._began: torch.cuda.Event | None = None
        self._pairs: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def begin(self) -> None:
        self._began = _mark()

    def end(self) -> None:
        assert self._began is not None
        self._pairs.append((self._began, _mark()))
        while self._pairs and self._pairs[0][1].query():  # type: ignore[no-untyped-call]
            start, end = self._pairs.popleft()
            self.compute_s += start.elapsed_time(end) / 1000


def build_compute_timer(world_size: int, device: torch.device) -> ComputeTimer:
    if world_size == 1:
        return NullComputeTimer()
    return CudaComputeTimer() if device.type == "cuda" else CpuComputeTimer()


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
