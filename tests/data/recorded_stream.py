"""A recorder in the place of a CUDA stream: the calls made of it, in order. Its device is the CPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.data.side_stream import Mark, SideStream


@dataclass(frozen=True)
class FakeMark:
    """A `Mark` that is reached. `name`: its stream and number."""

    name: str

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: FakeMark) -> float:
        return 1.0


class RecordedStream:
    """Writes its calls, after its name, to `calls`; inside of `entered` the copies of tensors, too."""

    device = torch.device("cpu")

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls
        self.handed_over: list[Tensor] = []
        self._marks = 0

    @property
    def as_stream(self) -> SideStream:
        return cast(SideStream, self)

    @contextmanager
    def entered(self) -> Iterator[None]:
        self._note("entered")
        with _Copies(self._note):
            yield
        self._note("left")

    def drain(self) -> None:
        self._note("drained")

    def mark(self) -> Mark:
        self._marks += 1
        mark = FakeMark(f"{self.name} {self._marks}")
        self.calls.append(f"{mark.name}: marked")
        return cast(Mark, mark)

    def wait_for(self, mark: Mark) -> None:
        self._note(f"waits for {cast(FakeMark, mark).name}")

    def hand_over(self, tensors: Iterable[Tensor], mark: Mark) -> None:
        self.handed_over += tensors
        self._note(f"handed over after {cast(FakeMark, mark).name}")

    def _note(self, call: str) -> None:
        self.calls.append(f"{self.name}: {call}")


class RecordedLock:
    """Notes when it is taken and given back."""

    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    def __enter__(self) -> None:
        self.calls.append("locked")

    def __exit__(self, *_: object) -> None:
        self.calls.append("unlocked")


class _Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, note: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._note = note

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.copy_.default:
            self._note("copied")
        return func(*args, **(kwargs or {}))
