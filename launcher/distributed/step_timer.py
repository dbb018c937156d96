"""How long a rank computes in each step, without its waits for the others: this tells slow ranks from waiting ones."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import torch


class ComputeTimer(Protocol):
    """Timed from the beginning of a forward pass until its gradients are there."""

    @property
    def compute_s(self) -> float:
        """Seconds so far."""

    def begin(self) -> None: ...

    def end(self) -> None: ...


class NullComputeTimer:
    """For a single process, which has no others to be compared with."""

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
    """Time of the GPU, by events that nothing waits for."""

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
