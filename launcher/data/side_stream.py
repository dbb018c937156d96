"""A CUDA stream beside the training's own: all that the input path needs of a GPU's queues.

Tests put a recorder in its place, which asserts the order of the calls.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

import torch
from torch import Tensor

Mark = torch.cuda.Event
"""The end of what was queued on a stream when it was made."""


class SideStream:
    """Work of `device` that is queued beside the training. Its memory goes to no other stream before `hand_over`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def entered(self) -> AbstractContextManager[object]:
        """Context in which this thread allocates and queues on this stream."""
        return torch.cuda.stream(self._stream)

    def drain(self) -> None:
        """The calling thread waits until the stream has done all that is queued on it."""
        self._stream.synchronize()

    def mark(self) -> Mark:
        mark = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self._stream.record_event(mark)
        return mark

    def wait_for(self, mark: Mark) -> None:
        """Work queued from now on begins after `mark`, which may be of another stream."""
        self._stream.wait_event(mark)

    def hand_over(self, tensors: Iterable[Tensor], mark: Mark) -> None:
        """The caller's current stream may use these tensors after `mark`.

        Their memory is not reused before that stream is done with it.
        """
        current = torch.cuda.current_stream(self.device)
        current.wait_event(mark)
        for tensor in tensors:
            tensor.record_stream(current)
