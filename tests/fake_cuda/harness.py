"""CUDA tensors on a machine without a GPU: they have a device, a shape and a type, but no values.

`fake_cuda` lets code run on them as it stands. Tensors of two devices in one operation raise torch's
FakeTensorDeviceMismatchError. What would make the host wait for the GPU raises HostSyncError: a value that is read back
(`.item()`, `if tensor`, a mask as an index, `.cpu()`), and a copy to the GPU that is not asynchronous or comes from
more pageable memory than the driver takes into its own buffer. Streams, events and kernels are not there.
`loss.backward()` and `torch.autocast("cuda")` work, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from launcher.augment import blur
from launcher.augment.groups import PAGEABLE_BYTES
from tests.fake_cuda.backward import walk_backward

CUDA = torch.device("cuda", 0)
aten = torch.ops.aten

CACHES = (blur._quantiles,)
"""Functions that keep a tensor of each device for ever: emptied, so that no fake tensor outlives its test."""

_READS = {
    aten._local_scalar_dense.default: ".item(), or a tensor in `if`",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.repeat_interleave.Tensor: "repeat_interleave by a tensor",
    aten._unique2.default: "unique",
    aten.equal.default: "torch.equal",
}
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
_FILLS = (aten.masked_fill.Tensor, aten.masked_fill_.Tensor)
_FUSED = (aten._fused_sgd_.default, aten._fused_adam_.default, aten._fused_adamw_.default)
"""Optimizers of one kernel: they change tensors in place, and give nothing. FakeTensorMode has some of them only, and
does not compare the devices in their lists."""


class HostSyncError(AssertionError):
    """The host would wait here until the GPU has done all that was queued."""


@dataclass(frozen=True, slots=True)
class Copy:
    """From the host to the GPU."""

    num_bytes: int
    is_pinned: bool


@dataclass
class FakeCuda:
    """What happened so far. `copies`: to the GPU, in order; `waits`: the reasons of those that were allowed."""

    copies: list[Copy] = field(default_factory=list)
    waits: list[str] = field(default_factory=list)
    allowed: str | None = None

    @contextmanager
    def may_wait(self, reason: str) -> Iterator[None]:
        """Inside, copies that wait are noted under this reason. Values can still not be read: there are none."""
        before, self.allowed = self.allowed, reason
        try:
            yield
        finally:
            self.allowed = before

    def wait(self, what: str) -> None:
        if self.allowed is None:
            raise HostSyncError(what)
        self.waits.append(self.allowed)


@contextmanager
def fake_cuda() -> Iterator[FakeCuda]:
    """Inside, `device="cuda"` works everywhere, and all tensors are fake ones."""
    seen = FakeCuda()
    _empty_caches()
    try:
        with _without_a_driver(), FakeTensorMode(allow_non_fake_inputs=True), _Recorder(seen):
            yield seen
    finally:
        _empty_caches()


@contextmanager
def _without_a_driver() -> Iterator[None]:
    """In place of what asks the driver, and so fails or turns itself off."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "backward", walk_backward)
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        yield


def _empty_caches() -> None:
    for function in CACHES:
        function.cache_clear()


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, seen: FakeCuda) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seen = seen

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is aten._pin_memory.default:  # FakeTensorMode has none
            return _pinned(args[0].clone())
        if func is aten.is_pinned.default:
            return is_pinned(args[0])
        if kwargs.get("pin_memory"):
            return _pinned(func(*args, **{**kwargs, "pin_memory": False}))
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        if (what := _read_by(func, args, any(each.is_cuda for each in given))) is not None:
            self._seen.wait(what)
        if func in _FUSED:
            for each in given:
                if each.device != CUDA:
                    raise FakeTensorDeviceMismatchError(func, CUDA, each.device)
            return None
        result = func(*args, **kwargs)
        if func is aten._to_copy.default:
            self._note(args[0], result, bool(kwargs.get("non_blocking")))
        elif func is aten.copy_.default:
            self._note(args[1], args[0], bool(args[2] if len(args) > 2 else kwargs.get("non_blocking")))
        return result

    def _note(self, source: Tensor, target: Tensor, is_asynchronous: bool) -> None:
        if source.is_cuda and not target.is_cuda:
            self._seen.wait("a copy to the host")
        if source.is_cuda or not target.is_cuda:
            return
        copy = Copy(target.nbytes, is_pinned(source))
        self._seen.copies.append(copy)
        if not is_asynchronous:
            self._seen.wait(f"a copy of {copy.num_bytes:,} bytes to the GPU without non_blocking")
        elif not copy.is_pinned and copy.num_bytes > PAGEABLE_BYTES:
            self._seen.wait(f"a copy of {copy.num_bytes:,} bytes of pageable memory to the GPU")


def _read_by(func: Any, args: tuple[Any, ...], has_cuda: bool) -> str | None:
    """What the operation reads back on a GPU, if anything. FakeTensorMode does not see all of it."""
    if not has_cuda:
        return None
    if func in _INDEXING and any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1]):
        # One number of the host is filled in without reading the mask.
        is_fill = len(args) > 2 and args[2].numel() == 1 and not args[2].is_cuda
        return None if is_fill else "a mask as an index"
    if func in _FILLS and args[2].is_cuda:
        return "masked_fill by a tensor of the GPU"
    return _READS.get(func)


def _pinned(tensor: Tensor) -> Tensor:
    tensor.is_fake_pinned = True  # type: ignore[attr-defined]
    return tensor


def is_pinned(tensor: Tensor) -> bool:
    """Whether this fake tensor, itself and not a view of it, was made in pinned memory."""
    return bool(getattr(tensor, "is_fake_pinned", False))


def to_fake_cuda(model: nn.Module) -> nn.Module:
    """The model itself, with fake CUDA tensors in place of its own. `model.to` cannot make fake ones of real ones."""
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = torch.empty_like(parameter, device=CUDA)
                module._parameters[name] = nn.Parameter(empty, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty_like(buffer, device=CUDA)
    return model


def run_on_cuda(function: Callable[..., Any], *arguments: Any) -> FakeCuda:
    """What happened while the function ran; every tensor in its result is on the GPU."""
    with fake_cuda() as seen:
        results = function(*arguments)
        assert all(each.device == CUDA for each in tree_leaves(results) if isinstance(each, Tensor))
    return seen
