from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import nn

from launcher.distributed.strategy import (
    Strategy,
    build_strategy,
    choose_device,
    get_rng_state,
    seed_rank,
    set_rng_state,
)
from launcher.distributed.world import World, read_world
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


SRUN = {"SLURM_PROCID": "3", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "3"}


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_the_only_gpu_that_an_srun_task_sees_may_be_its_own(wanted: Literal["auto", "cuda"]) -> None:
    assert choose_device(wanted, 1, read_world(SRUN), SRUN) == "cuda"


def test_one_gpu_is_too_few_for_ranks_that_are_still_to_start() -> None:
    with pytest.raises(UserError, match=r"^2 processes on this node but 1 GPUs: start with --num_processes 1, or"):
        choose_device("auto", 1, World(size=2, local_size=2), {})


class Scaler:
    def state_dict(self) -> dict[str, float]:
        raise AssertionError("waits for the GPU")


def test_asking_for_the_scaler_does_not_read_it(strategy: Strategy, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not strategy.has_scaler
    monkeypatch.setattr(strategy._accelerator, "scaler", Scaler())
    assert strategy.has_scaler


def test_batchnorm_must_be_synchronised_before_the_network_moves(
    strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    strategy.to_device(nn.BatchNorm2d(1))
    monkeypatch.setattr(strategy, "syncs_batchnorm", True)
    strategy.to_device(nn.SyncBatchNorm(1))
    with pytest.raises(AssertionError, match="BatchNorm is not converted"):
        strategy.to_device(nn.BatchNorm2d(1))


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
