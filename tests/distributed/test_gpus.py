from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from launcher.distributed.comm import Comm
from launcher.distributed.gpus import check_distinct, check_own_gpu, find_slow_bf16
from launcher.errors import UserError
from tests.distributed.threads import run_ranks

CUDA = torch.device("cuda", 0)


def test_each_rank_may_see_one_gpu_of_its_own() -> None:
    check_distinct(["GPU-a", "GPU-b", "GPU-c", "GPU-d"], ["n1", "n1", "n2", "n2"])


def test_a_gpu_of_two_ranks_is_a_user_error() -> None:
    with pytest.raises(UserError) as error:
        check_distinct(["GPU-a", "GPU-b", "GPU-c", "GPU-c", "GPU-d"], ["n1", "n1", "n2", "n2", "n2"])
    assert str(error.value) == (
        "3 processes on n2 but 2 GPUs: start with --num_processes 2, give each srun task a GPU of its own, "
        "or set strategy.device=cpu"
    )


def ask(monkeypatch: pytest.MonkeyPatch, *uuids: str) -> list[BaseException | None]:
    """Each rank sees one GPU, whose index is 0 for all of them."""

    def check(comm: Comm) -> None:
        check_own_gpu(comm, CUDA)

    given = iter(uuids)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=next(given)))
    return run_ranks(check)


def test_ranks_ask_each_other_for_their_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(monkeypatch, "GPU-a", "GPU-b", "GPU-c") == [None] * 3
    assert {type(outcome) for outcome in ask(monkeypatch, "GPU-a", "GPU-b", "GPU-a")} == {UserError}


def test_cpus_are_not_asked_for() -> None:
    def check(comm: Comm) -> None:
        check_own_gpu(comm, torch.device("cpu"))

    assert run_ranks(check) == [None] * 3


@pytest.mark.parametrize(
    ("precision", "device", "has_units", "num_notes"),
    [
        ("bf16", CUDA, False, 1),
        ("bf16", CUDA, True, 0),
        ("no", CUDA, False, 0),
        ("bf16", torch.device("cpu"), False, 0),
    ],
)
def test_a_gpu_that_emulates_bf16_is_noted(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: torch.device, has_units: bool, num_notes: int
) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_units
    )
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    notes = find_slow_bf16(precision, device)
    assert len(notes) == num_notes
    assert all("Tesla T4" in note for note in notes)
