"""The bytes of all tensors that are alive at the same time, measured as torch makes them: on a CPU too."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Allocations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`peak_bytes`: of the storages of results, at most, inside `with`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes: int = 0
        self._bytes_now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = {self._key(each) for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)}
        results = func(*args, **(kwargs or {}))
        for each in tree_leaves(results):
            if isinstance(each, Tensor) and self._key(each) not in given:
                self._note(each)
        return results

    def _key(self, tensor: Tensor) -> int:
        return int(tensor.untyped_storage()._cdata)

    def _note(self, tensor: Tensor) -> None:
        key, storage = self._key(tensor), tensor.untyped_storage()
        if key in self._alive:
            return
        self._alive.add(key)
        self._bytes_now += storage.nbytes()
        self.peak_bytes = max(self.peak_bytes, self._bytes_now)
        weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, num_bytes: int) -> None:
        self._alive.discard(key)
        self._bytes_now -= num_bytes


def peak_of(work: Callable[[], Any]) -> int:
    """Most bytes at once of tensors that `work` makes."""
    with torch.no_grad(), Allocations() as allocations:
        work()
    peak: int = allocations.peak_bytes
    return peak
