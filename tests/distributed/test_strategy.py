from __future__ import annotations

import pytest
import torch
from torch import nn

from launcher.distributed.strategy import (
    Strategy,
    _complete_environment,
    build_strategy,
    choose_device,
    get_rng_state,
    seed_rank,
    set_rng_state,
)
from launcher.distributed.world import World
from launcher.errors import UserError
from launcher.recipe.schema import Strategy as StrategySection


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return build_strategy(StrategySection(device="cpu"), World(), seed=0, deterministic=False)


def test_auto_is_the_cpu_without_gpus() -> None:
    assert choose_device("auto", 0, World(size=2, local_size=2), {}) == "cpu"


def test_auto_is_cuda_when_every_rank_has_a_gpu() -> None:
    assert choose_device("auto", 4, World(size=8, local_size=4, num_nodes=2), {}) == "cuda"


@pytest.mark.parametrize("word", ["1", "true", "True", "yes"])
def test_accelerates_variable_chooses_the_cpu(word: str) -> None:
    assert choose_device("auto", 4, World(), {"ACCELERATE_USE_CPU": word}) == "cpu"


@pytest.mark.parametrize(("wanted", "num_gpus"), [("auto", 4), ("cuda", 4), ("cuda", 0)])
def test_more_ranks_than_gpus_are_a_user_error(wanted: str, num_gpus: int) -> None:
    with pytest.raises(UserError) as error:
        choose_device(wanted, num_gpus, World(size=8, local_size=8), {})  # type: ignore[arg-type]
    assert str(error.value) == (
        f"8 processes on this node but {num_gpus} GPUs: start with --num_processes {max(num_gpus, 1)}, "
        "or set strategy.device=cpu"
    )


def test_fp16_without_cuda_is_a_user_error() -> None:
    if torch.cuda.is_available():
        pytest.skip("needs a machine without CUDA")
    with pytest.raises(
        UserError, match=r"^strategy.precision: fp16 needs CUDA, which is not available here; use bf16 or no$"
    ):
        build_strategy(StrategySection(precision="fp16"), World(), seed=0, deterministic=False)


def test_sync_batchnorm_without_cuda_is_a_user_error() -> None:
    with pytest.raises(
        UserError, match=r"^strategy.sync_batchnorm: needs CUDA, which is not available here; set it to false$"
    ):
        build_strategy(StrategySection(device="cpu", sync_batchnorm=True), World(), seed=0, deterministic=False)


def test_several_nodes_need_a_master_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR is not set"):
        build_strategy(StrategySection(device="cpu"), World(0, 4, 0, 2, 0, 2), seed=0, deterministic=False)


def test_another_accumulation_than_the_recipes_is_a_user_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "2")
    with pytest.raises(
        UserError, match=r"^unset ACCELERATE_GRADIENT_ACCUMULATION_STEPS: set train.micro_batch instead$"
    ):
        build_strategy(StrategySection(device="cpu"), World(), seed=0, deterministic=False)


def test_srun_gets_the_variables_of_torch() -> None:
    environment = {"SLURM_JOB_ID": "70123", "MASTER_PORT": "4000"}
    _complete_environment(World(rank=3, size=4, local_rank=1, local_size=2), environment)
    assert environment == {
        "SLURM_JOB_ID": "70123",
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4000",
    }


def test_place_sets_the_memory_format(strategy: Strategy) -> None:
    model = strategy.to_device(nn.Conv2d(3, 8, 3))
    assert next(model.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert strategy.layout(torch.zeros(2, 3, 4, 4)).is_contiguous(memory_format=torch.channels_last)


def test_clipping_limits_the_norm(strategy: Strategy) -> None:
    model = nn.Linear(4, 1)
    wrapped, optimizer = strategy.wrap(model), strategy.prepare_optimizer(torch.optim.SGD(model.parameters(), lr=1.0))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    strategy.backward(1000 * wrapped(torch.ones(1, 4)).sum())
    assert strategy.step(optimizer, 0.5, model.parameters())
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, model.parameters(), strict=True)])
    assert moved.norm().item() == pytest.approx(0.5, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_seeds_differ_between_ranks_and_steps() -> None:
    def first(rank: int, step: int) -> float:
        seed_rank(0, World(rank=rank, size=2, local_size=2), step)
        return torch.rand(1).item()

    seed_rank(2**32 - 1, World(), 10**9)
    assert len({first(0, 0), first(1, 0), first(0, 1), first(1, 1)}) == 4
    assert first(0, 0) == first(0, 0)


def test_write_rng_restores_what_read_rng_gave() -> None:
    cpu = torch.device("cpu")
    state = get_rng_state(cpu)
    expected = torch.rand(3)
    set_rng_state(state, cpu)
    assert torch.equal(torch.rand(3), expected)
