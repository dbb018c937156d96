from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from launcher.distributed.strategy import Strategy, build_strategy, choose_device, read_rng, seed_rank, write_rng
from launcher.distributed.world import World
from launcher.errors import RunError, UserError
from launcher.recipe.schema import Strategy as StrategySection


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return build_strategy(StrategySection(device="cpu"), World(), seed=0, deterministic=False)


def test_cpu_when_there_is_no_gpu() -> None:
    assert choose_device("auto", 0, World(size=2, local_size=2), {}) == "cpu"


def test_cuda_when_every_process_has_a_gpu() -> None:
    assert choose_device("auto", 4, World(size=8, local_size=4, num_nodes=2), {}) == "cuda"


@pytest.mark.parametrize("word", ["1", "true", "True", "yes"])
def test_accelerate_can_ask_for_the_cpu(word: str) -> None:
    assert choose_device("auto", 4, World(), {"ACCELERATE_USE_CPU": word}) == "cpu"


@pytest.mark.parametrize(("wanted", "num_gpus"), [("auto", 4), ("cuda", 4), ("cuda", 0)])
def test_more_processes_than_gpus_is_one_line(wanted: str, num_gpus: int) -> None:
    with pytest.raises(UserError) as error:
        choose_device(wanted, num_gpus, World(size=8, local_size=8), {})  # type: ignore[arg-type]
    assert str(error.value) == (
        f"8 processes on this node but {num_gpus} GPUs: start with --num_processes {max(num_gpus, 1)}, "
        "or set strategy.device=cpu"
    )


def test_fp16_without_cuda_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(UserError, match=r"strategy.precision: fp16 needs CUDA"):
        build_strategy(StrategySection(precision="fp16"), World(), seed=0, deterministic=False)


def test_sync_batchnorm_without_cuda_is_refused() -> None:
    with pytest.raises(UserError, match=r"strategy.sync_batchnorm: torch has it for CUDA only"):
        build_strategy(StrategySection(device="cpu", sync_batchnorm=True), World(), seed=0, deterministic=False)


def test_several_nodes_need_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        build_strategy(StrategySection(device="cpu"), World(0, 4, 0, 2, 0, 2), seed=0, deterministic=False)


def test_a_single_process_exchanges_nothing(strategy: Strategy) -> None:
    assert strategy.comm.sum(torch.tensor([1, 2])).tolist() == [1, 2]
    assert strategy.comm.all_gather_object({"a": 1}) == [{"a": 1}]
    assert strategy.comm.any_rank_async(True) is True
    assert strategy.comm.any_rank_async(False) is False


def test_what_the_first_process_raises_is_raised(strategy: Strategy) -> None:
    def work() -> Path:
        raise RunError("no")

    with pytest.raises(RunError, match="no"):
        strategy.comm.run_on_rank0(work)


def test_place_sets_the_memory_layout(strategy: Strategy) -> None:
    model = strategy.place(nn.Conv2d(3, 8, 3))
    assert next(model.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert strategy.layout(torch.zeros(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)


def test_clipping_limits_the_norm(strategy: Strategy) -> None:
    model = nn.Linear(4, 1)
    wrapped, optimizer = strategy.wrap(model), strategy.adopt(torch.optim.SGD(model.parameters(), lr=1.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    strategy.backward(1000 * wrapped(torch.ones(1, 4)).sum())
    assert strategy.step(optimizer, 0.5, model.parameters())
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_ranks_and_steps_have_their_own_random_numbers() -> None:
    def first(rank: int, step: int) -> float:
        seed_rank(0, World(rank=rank, size=2, local_size=2), step)
        return torch.rand(1).item()

    seed_rank(2**32 - 1, World(), 10**9)
    assert len({first(0, 0), first(1, 0), first(0, 1), first(1, 1)}) == 4
    assert first(0, 0) == first(0, 0)


def test_random_state_comes_back() -> None:
    cpu = torch.device("cpu")
    state = read_rng(cpu)
    expected = torch.rand(3)
    write_rng(state, cpu)
    assert torch.equal(torch.rand(3), expected)
