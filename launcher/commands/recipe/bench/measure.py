"""Images per second of each stage of a training, alone and together. The stages run the code that training runs."""

from __future__ import annotations

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch

from launcher.commands.recipe.bench.advice import GROWTH, Speeds, choose_workers
from launcher.data.decode import decode_image
from launcher.data.encoded import InputTimes, read_batch
from launcher.data.feed import Examples, ImageFeed
from launcher.data.ids import Ids
from launcher.data.loader import Loader
from launcher.run.run_log import NullLog
from launcher.text import show_bytes
from launcher.train.job import Job
from launcher.train.nonfinite import FailOnNonfinite
from launcher.train.stage import Stage
from launcher.train.step import train_step, train_work

NUM_SAMPLES = 256
"""Most images that are decoded and augmented over and over."""
SAMPLE_PIXELS = 2**26
"""Most pixels of these images: 192 MiB."""
ENOUGH_FRAC = 0.5
"""Fraction of the wanted time that a measurement on a GPU must take; a shorter one is repeated with more calls."""
MAX_GROWTH = 10
"""Calls of a repeated measurement, over those of the one before: that was short, and its time may be far off."""
ENDLESS = range(1, sys.maxsize)
"""Steps of a training that does not end."""

Rows = list[tuple[str, str, str]]
"""Stage, images per second, and how it was measured."""


@dataclass(frozen=True)
class Samples:
    """Some of the training images."""

    ids_B: Ids
    """Those that are kept in memory."""
    num_pixels: float
    """Mean over images."""
    long_side: float
    """Mean of the longer sides, in pixels."""


@dataclass(frozen=True)
class Meter:
    """Measures one rank of a training in a stage of freezing that keeps no features."""

    job: Job
    stage: Stage
    samples: Samples
    seconds: float
    """Duration of each measurement."""

    def read(self) -> tuple[float, int]:
        """Images and bytes per second."""
        reader, ids, sizes = feed_of(self.stage).loader.reader, _train_ids(self.job), list[int]()

        def read() -> int:
            sizes.append(len(reader.read(next(ids)).content))
            return 1

        rate = self._rate(read)
        return rate, int(rate * float(np.mean(sizes)))

    def decode(self) -> float:
        loader = feed_of(self.stage).loader
        files = itertools.cycle([loader.reader.read(i) for i in self.samples.ids_B.tolist()])

        def decode() -> int:
            file = next(files)
            decode_image(file.content, file.place, loader.min_side)
            return 1

        return self._rate(decode)

    def augment(self) -> float:
        feed, strategy, ids_B = feed_of(self.stage), self.job.strategy, self.samples.ids_B
        files, _ = read_batch(feed.loader.reader, ids_B, feed.loader.min_side, InputTimes(), feed.loader.bad_samples)
        images, views = files.decode().to(strategy.device), itertools.count()

        def augment() -> int:
            strategy.layout(feed.augment(images, ids_B, feed.seed, next(views)))
            return len(ids_B)

        return self._rate(augment)

    def input(self, workers: int) -> float:
        with self.batches(workers) as batches:
            # The threads start together, and their first batches come together.
            return self._rate(lambda: len(next(batches).labels_B), warm_up=workers)

    def steps(self, batches: Iterator[Examples]) -> float:
        """Training's own step on batches of images, after the frozen part of the network."""
        job, engine = self.job, feed_of(self.stage).engine
        if engine is not None:
            batches = (replace(examples, inputs=engine(*examples.inputs)) for examples in batches)

        def step() -> int:
            train_step(job, self.stage, batches, job.plan.total_steps, FailOnNonfinite(), NullLog())
            return job.plan.rank_batch

        return self._rate(step)

    @contextmanager
    def batches(self, workers: int) -> Iterator[Iterator[Examples]]:
        """Training's batches from the shards, without end and without the frozen part of the network."""
        feed, device = feed_of(self.stage), self.job.strategy.device
        kept = feed.loader
        options = (kept.min_side, kept.decodes_on_device, kept.bad_samples)
        with closing(Loader(kept.reader, workers, device, *options)) as loader:
            yield replace(feed, loader=loader, engine=None).batches(train_work(self.job, ENDLESS))

    def describe_steps(self) -> str:
        plan, strategy = self.job.plan, self.job.strategy
        frozen = "" if feed_of(self.stage).engine is None else ", frozen part as inference"
        passes = f"{plan.accumulation} x {plan.micro_batch}" if plan.accumulation > 1 else str(plan.rank_batch)
        return f"{strategy.device.type}, {passes} images a step, precision {self.job.recipe.strategy.precision}{frozen}"

    def _rate(self, work: Callable[[], int], warm_up: int = 1) -> float:
        """Images per second of `work`, which returns how many it did. Its first calls, which set up, do not count."""
        for _ in range(warm_up):
            work()
        device = self.job.strategy.device
        return _rate_on_gpu(work, self.seconds, device) if device.type == "cuda" else _rate_on_cpu(work, self.seconds)


def _rate_on_cpu(work: Callable[[], int], seconds: float) -> float:
    start_s, num_images = time.perf_counter(), 0
    while True:
        num_images += work()
        elapsed_s = time.perf_counter() - start_s
        if elapsed_s >= seconds:
            return num_images / elapsed_s


def _rate_on_gpu(work: Callable[[], int], seconds: float, device: torch.device) -> float:
    """The rate of a number of calls that take about `seconds`, and that the GPU was only waited for after the last.

    In training the host queues steps ahead of the GPU: waiting for each would add the time of its launches.
    """
    num_calls = 1
    while True:
        torch.cuda.synchronize(device)
        start_s = time.perf_counter()
        num_images = sum(work() for _ in range(num_calls))
        torch.cuda.synchronize(device)
        elapsed_s = time.perf_counter() - start_s
        if elapsed_s >= ENOUGH_FRAC * seconds:
            return num_images / elapsed_s
        num_calls = min(math.ceil(num_calls * seconds / elapsed_s), MAX_GROWTH * num_calls)


def measure(job: Job, stage: Stage, samples: Samples, num_cores: int, seconds: float) -> tuple[Speeds, Rows]:
    """Measure for about `seconds` in all, with at most `num_cores` threads."""
    counts = [*itertools.takewhile(lambda count: count < num_cores, (2**i for i in itertools.count())), num_cores]
    meter = Meter(job, stage, samples, seconds / (5 + len(counts)))
    rows, device_type = Rows(), job.strategy.device.type

    def add(stage: str, speed: float, how: str) -> float:
        rows.append((stage, f"{speed:,.0f}", how))
        return speed

    with ExitStack() as restored:
        restored.callback(torch.set_num_threads, torch.get_num_threads())
        torch.set_num_threads(1)  # as in a thread of the loader
        read, bytes_per_s = meter.read()
        add("read", read, f"1 thread, {show_bytes(bytes_per_s)}/s; files read before come from memory")
        stages = {"read": read, "decode": add("decode", meter.decode(), "1 thread")}
        augment = add("augment", meter.augment(), "1 thread" if device_type == "cpu" else device_type)
    if device_type == "cpu":
        stages["augment"] = augment
    by_workers: dict[int, float] = {}
    for workers in counts:
        before = max(by_workers.values(), default=0.0)
        by_workers[workers] = add("input", meter.input(workers), f"data.workers={workers}")
        if by_workers[workers] < GROWTH * before:
            break  # more threads do not help
    with meter.batches(0) as batches:
        resident = next(batches)
    network = add("network", meter.steps(itertools.repeat(resident)), meter.describe_steps())
    workers = choose_workers(by_workers, network)
    with meter.batches(workers) as batches:
        both = add("both", meter.steps(batches), f"training, data.workers={workers}")
    return Speeds(stages, by_workers, network, both), rows


def take_samples(job: Job, stage: Stage) -> Samples:
    """Raise DataError when one of them cannot be read."""
    loader = feed_of(stage).loader
    ids = np.fromiter(itertools.islice(_train_ids(job), min(NUM_SAMPLES, job.plan.num_train)), dtype=np.int64)
    files, _ = read_batch(loader.reader, ids, loader.min_side, InputTimes(), loader.bad_samples)
    areas_N = files.sizes_B2.prod(axis=1)
    num_fitting = max(1, int(np.searchsorted(areas_N.cumsum(), SAMPLE_PIXELS, side="right")))
    num = min(num_fitting, job.plan.micro_batch)
    return Samples(ids[:num], float(areas_N.mean()), float(files.sizes_B2.max(axis=1).mean()))


def feed_of(stage: Stage) -> ImageFeed:
    """The training images of a stage that keeps no features."""
    feed = stage.feeds["train"]
    assert isinstance(feed, ImageFeed), "features are not kept here"
    return feed


def _train_ids(job: Job) -> Iterator[int]:
    """The ids that this process reads, epoch after epoch."""
    for _, ids_B in train_work(job, ENDLESS):
        yield from ids_B.tolist()
