"""Images a second of each stage of a training, alone and together. The parts are those that training uses."""

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
from launcher.data.encoded import InputTimes, read_files
from launcher.data.feed import Examples, ImageFeed
from launcher.data.loader import Loader
from launcher.data.order import Ids
from launcher.run.run_log import NullLog
from launcher.text import show_bytes
from launcher.train.job import Job
from launcher.train.nonfinite import FailOnNonfinite
from launcher.train.stage import Stage
from launcher.train.step import train_step, train_work

NUM_SAMPLES = 256
SAMPLE_PIXELS = 2**26
"""Images that are decoded and augmented over and over: at most so many, and so many pixels in all, 256 MiB."""

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


def take_samples(job: Job, stage: Stage) -> Samples:
    """Raise DataError when one of them is no image."""
    loader = stage.inputs.feeds["train"].loader
    ids = np.fromiter(itertools.islice(_ids(job), min(NUM_SAMPLES, job.plan.num_train)), dtype=np.int64)
    files, _ = read_files(loader.reader, ids, loader.min_side, InputTimes(), loader.bad_samples)
    areas_N = files.sizes_B2.prod(axis=1)
    num_fitting = max(1, int(np.searchsorted(areas_N.cumsum(), SAMPLE_PIXELS, side="right")))
    num = min(num_fitting, job.plan.micro_batch)
    return Samples(ids[:num], float(areas_N.mean()), float(files.sizes_B2.max(axis=1).mean()))


def _ids(job: Job) -> Iterator[int]:
    """What the first process reads, epoch after epoch."""
    for step in itertools.count(1):
        yield from job.order.micro_batch_ids(step, 0).reshape(-1).tolist()


def measure(job: Job, stage: Stage, samples: Samples, num_cores: int, seconds: float) -> tuple[Speeds, Rows]:
    """`seconds`: for all together, about. `num_cores`: the most threads to try."""
    counts = [*itertools.takewhile(lambda count: count < num_cores, (2**i for i in itertools.count())), num_cores]
    each_s, device, rows = seconds / (5 + len(counts)), job.strategy.device.type, Rows()

    def add(stage: str, speed: float, how: str) -> float:
        rows.append((stage, f"{speed:,.0f}", how))
        return speed

    with _one_thread():
        read, rate_bytes = _measure_reading(job, stage, each_s)
        add("read", read, f"1 thread, {show_bytes(rate_bytes)}/s; what was read before comes from memory")
        decode = add("decode", _measure_decoding(job, stage, samples, each_s), "1 thread")
        where = "1 thread" if device == "cpu" else device
        augment = add("augment", _measure_augmenting(job, stage, samples, each_s), where)
    by_workers: dict[int, float] = {}
    for workers in counts:
        before = max(by_workers.values(), default=0.0)
        by_workers[workers] = add("input", _measure_input(job, stage, workers, each_s), f"data.workers={workers}")
        if by_workers[workers] < GROWTH * before:
            break
    network = add("network", _measure_steps(job, stage, _resident(job, stage), each_s), _describe_steps(job, stage))
    workers = choose_workers(by_workers, network)
    with _input(job, stage, workers) as batches:
        both = add("both", _measure_steps(job, stage, batches, each_s), f"training, data.workers={workers}")
    stages = {"read": read, "decode": decode} | ({"augment": augment} if device == "cpu" else {})
    return Speeds(stages, by_workers, network, both), rows


def _measure_reading(job: Job, stage: Stage, seconds: float) -> tuple[float, int]:
    """Images and bytes per second."""
    reader, ids = stage.inputs.feeds["train"].loader.reader, _ids(job)
    sizes: list[int] = []

    def read() -> int:
        sizes.append(len(reader.read(next(ids)).content))
        return 1

    rate = _rate(job, read, seconds)
    return rate, int(rate * float(np.mean(sizes)))


def _measure_decoding(job: Job, stage: Stage, samples: Samples, seconds: float) -> float:
    loader = stage.inputs.feeds["train"].loader
    files = itertools.cycle([loader.reader.read(i) for i in samples.ids_B.tolist()])

    def decode() -> int:
        file = next(files)
        decode_image(file.content, file.place, loader.min_side)
        return 1

    return _rate(job, decode, seconds)


def _measure_augmenting(job: Job, stage: Stage, samples: Samples, seconds: float) -> float:
    loader = stage.inputs.feeds["train"].loader
    files, _ = read_files(loader.reader, samples.ids_B, loader.min_side, InputTimes(), loader.bad_samples)
    images, views = files.decode().to(job.strategy.device), itertools.count()

    def augment() -> int:
        job.strategy.layout(
            stage.inputs.feeds["train"].augment(images, samples.ids_B, job.recipe.run.seed, next(views))
        )
        return len(samples.ids_B)

    return _rate(job, augment, seconds)


def _measure_input(job: Job, stage: Stage, workers: int, seconds: float) -> float:
    with _input(job, stage, workers) as batches:
        # The threads start together, and their first batches come together.
        return _rate(job, lambda: len(next(batches).labels_B), seconds, warm_up=workers)


def _measure_steps(job: Job, stage: Stage, batches: Iterator[Examples], seconds: float) -> float:
    """Training's own step on batches of images, the frozen part of the network first."""
    engine = feed_of(stage).engine
    if engine is not None:
        batches = (replace(examples, inputs=engine(*examples.inputs)) for examples in batches)

    def step() -> int:
        train_step(job, stage, batches, job.plan.total_steps, FailOnNonfinite(), NullLog())
        return job.plan.rank_batch

    return _rate(job, step, seconds)


@contextmanager
def _input(job: Job, stage: Stage, workers: int) -> Iterator[Iterator[Examples]]:
    """Training's batches from the shards, without end and without the frozen part of the network."""
    kept = stage.inputs.feeds["train"].loader
    loader = Loader(kept.reader, workers, job.strategy.device, kept.min_side, kept.decodes_on_device, kept.bad_samples)
    feed = replace(feed_of(stage), loader=loader, engine=None)
    epochs = itertools.repeat(range(1, job.plan.total_steps + 1))
    try:
        yield feed.batches(itertools.chain.from_iterable(train_work(job, steps) for steps in epochs))
    finally:
        loader.close()


def _resident(job: Job, stage: Stage) -> Iterator[Examples]:
    """One batch, which stays on the device."""
    with _input(job, stage, 0) as batches:
        return itertools.repeat(next(batches))


def _describe_steps(job: Job, stage: Stage) -> str:
    frozen = "" if feed_of(stage).engine is None else ", frozen part as inference"
    passes = (
        f"{job.plan.accumulation} x {job.plan.micro_batch}" if job.plan.accumulation > 1 else str(job.plan.rank_batch)
    )
    return f"{job.strategy.device.type}, {passes} images a step, precision {job.recipe.strategy.precision}{frozen}"


def feed_of(stage: Stage) -> ImageFeed:
    """The training images of a learner that keeps no features."""
    feed = stage.feeds["train"]
    assert isinstance(feed, ImageFeed), "features are not kept here"
    return feed


def _rate(job: Job, work: Callable[[], int], seconds: float, warm_up: int = 1) -> float:
    """Images per second: `work` says how many it did. Its first calls, which set things up, do not count."""

    def finish() -> float:
        if job.strategy.device.type == "cuda":
            torch.cuda.synchronize(job.strategy.device)
        return time.perf_counter()

    for _ in range(warm_up):
        work()
    start_s, num_images = finish(), 0
    while True:
        num_images += work()
        elapsed_s = finish() - start_s
        if elapsed_s >= seconds:
            return num_images / elapsed_s


@contextmanager
def _one_thread() -> Iterator[None]:
    """As in a thread of the loader."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
