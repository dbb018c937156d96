"""The test bed sees what it is for."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError
from torch.optim import SGD, AdamW, Optimizer

from launcher.augment.groups import PAGEABLE_BYTES
from tests.fake_cuda.harness import CUDA, Copy, HostSyncError, fake_cuda

SYNCS: dict[str, Callable[[Tensor], Any]] = {
    "item": lambda x: x.sum().item(),
    "if": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "mask": lambda x: x[x > 0],
    "mask set": lambda x: x.__setitem__(x > 0, x[0]),
    "mask fill": lambda x: x.masked_fill_(x > 0, x[0]),
    "nonzero": torch.nonzero,
    "equal": lambda x: torch.equal(x, x),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu", non_blocking=True),
    "copy to cpu": lambda x: torch.zeros(8).copy_(x),
    "blocking": lambda x: torch.zeros(8).to(CUDA),
    "made there of values": lambda x: torch.tensor([1.0, 2.0], device=CUDA),
    "blocking copy": lambda x: x.copy_(torch.zeros(8)),
    "pageable": lambda x: torch.zeros(PAGEABLE_BYTES // 4 + 1).to(CUDA, non_blocking=True),
}


@pytest.mark.parametrize("name", SYNCS)
def test_a_host_sync_raises(name: str) -> None:
    with fake_cuda(), pytest.raises(HostSyncError):
        SYNCS[name](torch.zeros(8, device="cuda"))


def test_a_number_of_the_host_is_filled_in_without_a_sync() -> None:
    with fake_cuda() as seen:
        x = torch.zeros(8, device="cuda")
        x[x > 0] = 3.0
        x.masked_fill_(x > 0, 1.0)
        x.copy_(torch.where(x > 0, 1, x))
    assert (seen.copies, seen.waits) == ([], [])


def test_two_devices_raise() -> None:
    with fake_cuda(), pytest.raises(FakeTensorDeviceMismatchError):
        torch.zeros(8, device="cuda") + torch.zeros(8)


@pytest.mark.parametrize("optim", [partial(SGD, momentum=0.9), AdamW])
def test_two_devices_in_a_fused_optimizer_raise(optim: Callable[..., Optimizer]) -> None:
    with fake_cuda():
        weight = nn.Parameter(torch.zeros(8, device="cuda"))
        optimizer = optim([weight], lr=0.1, fused=True)
        weight.square().sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        state = optimizer.state[weight]
        state.update({name: torch.zeros_like(value, device="cpu") for name, value in state.items()})
        with pytest.raises(FakeTensorDeviceMismatchError):
            optimizer.step()


def test_copies_that_do_not_wait_are_recorded() -> None:
    with fake_cuda() as seen:
        small = torch.zeros(PAGEABLE_BYTES // 4).to(CUDA, non_blocking=True)
        torch.zeros(2**20).pin_memory().to(CUDA, non_blocking=True)
        small.copy_(torch.empty(PAGEABLE_BYTES // 4, pin_memory=True), non_blocking=True)
    assert seen.copies == [Copy(PAGEABLE_BYTES, False), Copy(2**22, True), Copy(PAGEABLE_BYTES, True)]
    assert seen.waits == []


def test_a_wait_with_a_reason_is_noted() -> None:
    with fake_cuda() as seen:
        with seen.may_wait("once per run"):
            torch.zeros(8).to(CUDA)
        with pytest.raises(HostSyncError):
            torch.zeros(8).to(CUDA)
    assert seen.waits == ["once per run"]


def test_nothing_is_left_behind() -> None:
    with fake_cuda():
        torch.zeros(8, device="cuda")
    assert float(torch.ones(3).sum()) == 3
