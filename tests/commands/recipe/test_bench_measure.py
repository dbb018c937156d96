"""The rate of some work: on a GPU, which runs behind the host, and on a CPU. The clock and the GPU are the test's."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from launcher.commands.recipe.bench.measure import Meter

LAUNCH_S, GPU_S = 0.002, 0.003
"""Of one step: on the host, which queues it, and on the GPU."""


@dataclass
class Machine:
    """A host and a GPU that works off what the host queues."""

    now_s: float = 100.0
    free_s: float = 0.0
    """When the GPU will have done all that is queued."""
    calls: list[str] = field(default_factory=list)

    def step(self) -> int:
        self.calls.append("step")
        self.now_s += LAUNCH_S
        self.free_s = max(self.free_s, self.now_s) + GPU_S
        return 32

    def synchronize(self, _device: torch.device) -> None:
        self.calls.append("synchronize")
        self.now_s = max(self.now_s, self.free_s)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr("torch.cuda.synchronize", found.synchronize)
    monkeypatch.setattr("launcher.commands.recipe.bench.measure.time.perf_counter", lambda: found.now_s)
    return found


def rate_on(device: str, machine: Machine, seconds: float) -> float:
    job = SimpleNamespace(strategy=SimpleNamespace(device=torch.device(device)))
    meter = Meter(cast(Any, job), cast(Any, None), cast(Any, None), seconds)
    return meter._rate(machine.step)


def test_a_gpu_is_waited_for_before_and_after_its_steps_not_between(machine: Machine) -> None:
    rate = rate_on("cuda", machine, 1.0)
    assert rate == pytest.approx(32 / GPU_S, rel=0.01), "the host's launches are hidden behind the GPU's work"
    num_steps = [text.count("step") for text in " ".join(machine.calls).split("synchronize")]
    warm_up, measured, between = num_steps[0], num_steps[1::2], num_steps[2::2]
    assert (warm_up, set(between)) == (1, {0})
    assert measured[-1] * GPU_S == pytest.approx(1.0, rel=0.5)
    assert sum(measured[:-1]) * GPU_S < 0.5, "finding the number of steps takes less than measuring"


def test_work_that_takes_long_is_done_once(machine: Machine) -> None:
    assert rate_on("cuda", machine, LAUNCH_S) == pytest.approx(32 / (LAUNCH_S + GPU_S))
    assert machine.calls == ["step", "synchronize", "step", "synchronize"]


def test_a_cpu_is_measured_until_the_time_is_up(machine: Machine) -> None:
    assert rate_on("cpu", machine, 10.5 * LAUNCH_S) == pytest.approx(32 / LAUNCH_S)
    assert machine.calls == ["step"] * 12
