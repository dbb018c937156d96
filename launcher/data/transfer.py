"""From pinned memory to a GPU beside what it computes, one batch ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from launcher.augment.images import PackedImages
from launcher.data.encoded import InputTimes
from launcher.data.order import Ids


@dataclass(frozen=True, slots=True)
class DecodedBatch:
    """A batch as decoded. `view`: which augmented view of its images is wanted."""

    images: PackedImages
    labels_B: Tensor
    weights_B: Tensor
    ids_B: Ids
    view: int

    def to(self, device: torch.device) -> DecodedBatch:
        labels_B, weights_B = (values_B.pin_memory().to(device, non_blocking=True) for values_B in self.tensors[1:])
        return replace(self, images=self.images.to(device), labels_B=labels_B, weights_B=weights_B)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.images.pixels_PC, self.labels_B, self.weights_B


def copy_ahead(blocks: Iterator[DecodedBatch], device: torch.device, times: InputTimes) -> Iterator[DecodedBatch]:
    """The blocks on the GPU; while one is used, the next is on its way. `times`: what copying took is added to."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    copies: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def send(block: DecodedBatch) -> tuple[DecodedBatch, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            stream.record_event(start)
            sent = block.to(device)
            stream.record_event(end)
        copies.append((start, end))
        return sent, end

    coming = map(send, blocks)
    ahead = next(coming, None)
    while ahead is not None:
        block, arrived = ahead
        ahead = next(coming, None)
        current = torch.cuda.current_stream(device)
        current.wait_event(arrived)
        for tensor in block.tensors:
            tensor.record_stream(current)  # its memory is not given to another before this stream is done with it
        while copies and copies[0][1].query():  # type: ignore[no-untyped-call]  # only what is over: nothing waits
            start, end = copies.popleft()
            times.copy_s += start.elapsed_time(end) / 1000
        yield block
