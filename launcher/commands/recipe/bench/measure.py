"""Images per second of each stage of a training, alone and together. The stages run the code that training runs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

Rows = list[tuple[str, str, str]]
"""Stage, images per second, and how it was measured."""


@dataclass(frozen=True)
class Samples:
    """Some of the training images. `ids_B`: those that are kept in memory.

    `num_pixels` and `long_side` are of one image, on average.
    """

    ids_B: Ids
    num_pixels: float
    long_side: float


@dataclass(frozen=True)
class Meter:
    """Measures one rank of a training in a stage of freezing that keeps no features."""

    job: Job
    stage: Stage
    samples: Samples
    seconds: float
    """Duration of each measurement."""

    def measure(self, counts: list[int]) -> tuple[Speeds, Rows]:
        """`counts`: numbers of threads to try, until more of them do not help."""
        rows, is_cpu = Rows(), self.job.strategy.device.type == "cpu"

        def add(stage: str, speed: float, how: str) -> float:
            rows.append((stage, f"{speed:,.0f}", how))
            return speed

        with _one_thread():
            read, bytes_per_s = self.read()
            add("read", read, f"1 thread, {show_bytes(bytes_per_s)}/s; files read before come from memory")
            decode = add("decode", self.decode(), "1 thread")
            augment = add("augment", self.augment(), "1 thread" if is_cpu else self.job.strategy.device.type)
        by_workers: dict[int, float] = {}
        for workers in counts:
            before = max(by_workers.values(), default=0.0)
            by_workers[workers] = add("input", self.input(workers), f"data.workers={workers}")
            if by_workers[workers] < GROWTH * before:
                break
        with self._batches(0) as batches:
            resident = next(batches)
        network = add("network", self.steps(itertools.repeat(resident)), self._describe_steps())
        workers = choose_workers(by_workers, network)
        with self._batches(workers) as batches:
            both = add("both", self.steps(batches), f"training, data.workers={workers}")
        stages = {"read": read, "decode": decode} | ({"augment": augment} if is_cpu else {})
        return Speeds(stages, by_workers, network, both), rows

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
        with self._batches(workers) as batches:
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
    def _batches(self, workers: int) -> Iterator[Iterator[Examples]]:
        """Training's batches from the shards, without end and without the frozen part of the network."""
        feed, job = feed_of(self.stage), self.job
        kept = feed.loader
        options = (kept.min_side, kept.decodes_on_device, kept.bad_samples)
        loader = Loader(kept.reader, workers, job.strategy.device, *options)
        epochs = itertools.repeat(range(1, job.plan.total_steps + 1))
        work = itertools.chain.from_iterable(train_work(job, steps) for steps in epochs)
        try:
            yield replace(feed, loader=loader, engine=None).batches(work)
        finally:
            loader.close()

    def _describe_steps(self) -> str:
        plan, strategy = self.job.plan, self.job.strategy
        frozen = "" if feed_of(self.stage).engine is None else ", frozen part as inference"
        passes = f"{plan.accumulation} x {plan.micro_batch}" if plan.accumulation > 1 else str(plan.rank_batch)
        return f"{strategy.device.type}, {passes} images a step, precision {self.job.recipe.strategy.precision}{frozen}"

    def _rate(self, work: Callable[[], int], warm_up: int = 1) -> float:
        """Images per second of `work`, which returns how many it did. Its first calls, which set up, do not count."""
        for _ in range(warm_up):
            work()
        start_s, num_images = self._now_s(), 0
        while True:
            num_images += work()
            elapsed_s = self._now_s() - start_s
            if elapsed_s >= self.seconds:
                return num_images / elapsed_s

    def _now_s(self) -> float:
        """The time once the GPU has done everything asked of it."""
        if self.job.strategy.device.type == "cuda":
            torch.cuda.synchronize(self.job.strategy.device)
        return time.perf_counter()


def measure(job: Job, stage: Stage, samples: Samples, num_cores: int, seconds: float) -> tuple[Speeds, Rows]:
    """Measure for about `seconds` in all, with at most `num_cores` threads."""
    counts = [*itertools.takewhile(lambda count: count < num_cores, (2**i for i in itertools.count())), num_cores]
    return Meter(job, stage, samples, seconds / (5 + len(counts))).measure(counts)


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
    """The ids that rank 0 reads, epoch after epoch."""
    for step in itertools.count(1):
        yield from job.order.micro_batch_ids(step, 0).reshape(-1).tolist()


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread of torch's own, as in a thread of the loader."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
