"""What a training waits for its batches, with a GPU that the test makes up: a queue, and a clock."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from launcher.augment.execute import Augment
from launcher.data.encoded import InputTimes
from launcher.data.feed import Examples, Feed
from launcher.data.ids import Work
from launcher.train import timing
from launcher.train.data_wait import GpuWait, HostWait, build_data_wait
from launcher.train.timing import StepTimer
from tests.harness.workdir import LENET, WorkDir

LAUNCH_S, GPU_S, NUM_KERNELS = 0.025, 0.085, 25
"""Of one step: on the host, which queues its kernels, and on the GPU."""


@dataclass
class FakeGpu:
    """`now_s`: the host's clock. `free_s`: when the GPU will have done what is queued."""

    now_s: float = 100.0
    free_s: float = 0.0

    def launch(self, gpu_s: float) -> None:
        self.free_s = max(self.free_s, self.now_s) + gpu_s

    def new_event(self) -> FakeEvent:
        return FakeEvent(self)


@dataclass
class FakeEvent:
    gpu: FakeGpu
    time_s: float = 0.0

    def record(self) -> None:
        self.time_s = max(self.gpu.now_s, self.gpu.free_s)

    def query(self) -> bool:
        return self.time_s <= self.gpu.now_s

    def elapsed_time(self, end_event: FakeEvent) -> float:
        assert end_event.query(), "an event that is not there yet has no time"
        return 1000 * (end_event.time_s - self.time_s)


@dataclass
class MadeFeed:
    """A batch every `period_s` by the host's clock. `times`: as of a loader."""

    gpu: FakeGpu
    period_s: float
    times: InputTimes

    def batches(self, work: Work) -> Iterator[Examples]:
        start_s = self.gpu.now_s
        examples = Examples(
            (), torch.zeros(1), torch.zeros(1), torch.zeros(1), np.zeros(1, int), None, np.zeros((1, 0), np.uint8)
        )
        for number, _ in enumerate(work, start=1):
            ready_s = max(self.gpu.now_s, start_s + number * self.period_s)
            self.times.wait_s += ready_s - self.gpu.now_s
            self.gpu.now_s = ready_s
            yield examples


def train(gpu: FakeGpu, feed: Feed, timer: StepTimer, num_steps: int) -> None:
    """Steps of 85 ms, two ahead of the GPU at most; the first batch is there before the clock runs."""
    work = [(0, np.zeros(1, int))] * (num_steps + 1)
    batches = timer.watch(feed, work, torch.device("cuda"))
    next(batches)
    timer.resume(feed.times)
    for examples in batches:
        assert examples is not None
        gpu.now_s = max(gpu.now_s, gpu.free_s - 2 * GPU_S)
        for _ in range(NUM_KERNELS):
            gpu.now_s += LAUNCH_S / NUM_KERNELS
            gpu.launch(GPU_S / NUM_KERNELS)
        timer.images += 256
        timer.pause()
        timer.resume(feed.times)
    gpu.now_s = gpu.free_s
    timer.pause()


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    found = FakeGpu()
    monkeypatch.setattr("launcher.train.timing.time.perf_counter", lambda: found.now_s)
    monkeypatch.setattr(timing, "build_data_wait", lambda device: GpuWait(found.new_event))
    return found


@pytest.mark.parametrize(
    ("period_s", "lost_frac", "host_frac"),
    [(0.050, 0.0, 0.0), (0.089, 4 / 89, 64 / 89), (0.170, 85 / 170, 145 / 170)],
)
def test_a_gpu_loses_what_it_stands_idle_not_what_its_host_waits(
    gpu: FakeGpu, period_s: float, lost_frac: float, host_frac: float
) -> None:
    feed, timer = MadeFeed(gpu, period_s, InputTimes()), StepTimer()
    train(gpu, feed, timer, 200)  # type: ignore[arg-type]
    assert timer.totals()["data_wait_frac"] == pytest.approx(lost_frac, abs=0.015)
    assert timer.input.wait_s / timer.train_s == pytest.approx(lost_frac, abs=0.015)
    if host_frac:
        assert feed.times.wait_s / timer.train_s == pytest.approx(host_frac, abs=0.02)


def test_what_comes_between_two_steps_does_not_count(gpu: FakeGpu) -> None:
    """A validation: the GPU has nothing to train, but not for lack of a batch."""
    wait, feed = GpuWait(gpu.new_event), MadeFeed(gpu, 0.0, InputTimes())
    for _ in wait.watch(feed, [(0, np.zeros(1, int))] * 3):  # type: ignore[arg-type]
        gpu.launch(GPU_S)
        gpu.now_s += 60.0
    assert wait.take_s(host_wait_s=5.0) == 0.0


def test_augmentation_is_work_of_the_gpu_and_reading_is_not(workdir: WorkDir) -> None:
    """The real feed of images: the gap ends where the first kernel is queued."""
    parts = workdir.build(LENET, "backbone.freeze=none", "data.workers=0")
    gpu, feed, call = FakeGpu(), parts.inputs.image_feeds["train"], Augment.__call__
    read = feed.loader.reader.read

    def read_slowly(i: int) -> object:
        gpu.now_s += 0.5
        return read(i)

    def augment_slowly(augment: Augment, *words: Any) -> torch.Tensor:
        gpu.launch(3.0)
        return call(augment, *words)

    workdir.patch.setattr(feed.loader.reader, "read", read_slowly)
    workdir.patch.setattr(Augment, "__call__", augment_slowly)
    wait = GpuWait(gpu.new_event)
    for _ in wait.watch(feed, [(0, np.arange(2)), (0, np.arange(2, 6))]):
        gpu.now_s = max(gpu.now_s, gpu.free_s)
    parts.close()
    assert wait.take_s(0.0) == pytest.approx(4 * 0.5), "four images are read between the two steps"


def test_a_cpu_keeps_the_clock_of_the_host() -> None:
    assert isinstance(build_data_wait(torch.device("cpu")), HostWait)
    assert HostWait().take_s(1.5) == 1.5
    assert isinstance(build_data_wait(torch.device("cuda")), GpuWait)
