"""Copies from pinned memory to a GPU beside what it computes, one batch ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch

from launcher.data.decoded import DecodedBatch
from launcher.data.encoded import InputTimes


def copy_ahead(batches: Iterator[DecodedBatch], device: torch.device, times: InputTimes) -> Iterator[DecodedBatch]:
    """The batches on the GPU; while one is used, the next is copied. Adds the time of the copies to `times`."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    copies: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    def send(batch: DecodedBatch) -> tuple[DecodedBatch, torch.cuda.Event]:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            stream.record_event(start)
            sent = batch.to(device)
            stream.record_event(end)
        copies.append((start, end))
        return sent, end

    coming = map(send, batches)
    ahead = next(coming, None)
    while ahead is not None:
        batch, arrived = ahead
        ahead = next(coming, None)
        current = torch.cuda.current_stream(device)
        current.wait_event(arrived)
        for tensor in batch.tensors:
            tensor.record_stream(current)  # its memory is not reused before this stream is done with it
        while copies and copies[0][1].query():  # type: ignore[no-untyped-call]  # finished ones only: nothing waits
            start, end = copies.popleft()
            times.copy_s += start.elapsed_time(end) / 1000
        yield batch
