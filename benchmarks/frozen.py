"""A new head on a frozen ResNet-50 (job of recipes/resnet50_caltech.yaml), side by side on the same CPU threads.

    python benchmarks/frozen.py            # 3 rounds, 2 minutes on 2 cores

Images of about 375 x 500 in memory, batches of 32, 224 px, augmentation as in the recipe, random weights. In turn:
a  the loop of tutorials: float32, contiguous, `model.train()`, Pillow transforms
b  a careful loop: bfloat16 autocast, channels last, backbone in eval mode and without gradient, uint8 transforms
c  ours, images augmented anew
d  ours, features kept: what epochs after the first cost with `augment.views`
The last line is one JSON object: images/s (median over rounds), ratios, and how near c is to this CPU's limit: the
speed of large matrix products in bfloat16, which no loop of them exceeds. A CPU with AMX multiplies in bfloat16 many
times as fast as in float32, one with AVX-512 BF16 alone two to three times.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms import v2

from launcher.augment.images import PackedImages
from launcher.data.bad_samples import FailOnBadSample
from launcher.data.encoded import InputTimes
from launcher.data.ids import Work
from launcher.data.loader import AugmentBatch, Batch, Loader
from launcher.data.order import build_order
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World
from launcher.models.frozen.freeze import set_training
from launcher.recipe.parse import load_recipe
from launcher.recipe.plan import make_plan
from launcher.run.folder import open_run
from launcher.run.run_log import NullLog
from launcher.train.inputs import build_inputs
from launcher.train.job import Job, build_state
from launcher.train.nonfinite import FailOnNonfinite
from launcher.train.stage import Stage, enter_stage
from launcher.train.step import train_step, train_work
from shards.manifest import Manifest

RECIPE = Path(__file__).parent.parent / "recipes/resnet50_caltech.yaml"
BATCH = 32
FLOP = 8.2e9
"""Floating point operations of a ResNet-50 without its last layer, for one image of 224 px."""
NUM_IMAGES = 320
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
ROUNDS = int(os.environ.get("ROUNDS", "3"))
STEPS = {"a": 2, "b": 4, "c": 10, "d": 200}
"""Steps timed in each round, after one that is not."""

Arrays = list[np.ndarray[Any, np.dtype[np.uint8]]]
"""Pixels of images, [height, width, 3] each."""

Loop = Callable[[int], None]
"""Trains for a number of steps."""


def make_images() -> Arrays:
    """Windows of about 375 x 500 pixels of scikit-learn's two photographs, enlarged."""
    photographs = [Image.fromarray(image).resize((960, 640)) for image in load_sample_images().images]
    images = []
    for i in range(NUM_IMAGES):
        left, top, tall = i * 37 % 440, i * 53 % 240, i % 5 * 10
        window = photographs[i % 2].crop((left, top, left + 480 + tall, top + 355 + tall))
        images.append(np.asarray(window))
    return images


def train_transform(kind: Any, *last: Any) -> Any:
    """The recipe's list by torchvision: `kind` is its module for Pillow images or for tensors."""
    return kind.Compose(
        [
            kind.RandomResizedCrop(256, scale=(0.8, 1.0), ratio=(0.75, 1.33)),
            kind.RandomRotation(15),
            kind.RandomHorizontalFlip(),
            kind.CenterCrop(224),
            *last,
            kind.Normalize(MEAN, STD),
        ]
    )


def new_head(num_inputs: int = 2048) -> nn.Module:
    return nn.Sequential(nn.Linear(num_inputs, 256), nn.ReLU(), nn.Dropout(0.4), nn.Linear(256, 10))


def batches_of(items: list[Any], transform: Any, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    for step in range(steps):
        numbers = [(step * BATCH + i) % len(items) for i in range(BATCH)]
        yield torch.stack([transform(items[n]) for n in numbers]), torch.tensor([n % 10 for n in numbers])


def tutorial_loop(arrays: Arrays) -> Loop:
    images = [Image.fromarray(array) for array in arrays]
    transform = train_transform(torchvision.transforms, torchvision.transforms.ToTensor())
    model = torchvision.models.resnet50()
    model.requires_grad_(False)
    model.fc = new_head()
    optimizer = torch.optim.Adam(model.fc.parameters())

    def loop(steps: int) -> None:
        model.train()
        for images_BCHW, labels_B in batches_of(images, transform, steps):
            optimizer.zero_grad()
            loss = cross_entropy(model(images_BCHW), labels_B)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss.item()

    return loop


def careful_loop(arrays: Arrays) -> Loop:
    images = [torch.from_numpy(array.copy()).permute(2, 0, 1) for array in arrays]
    transform = train_transform(v2, v2.ToDtype(torch.float32, scale=True))
    backbone = torchvision.models.resnet50().to(memory_format=torch.channels_last).eval()
    backbone.fc = nn.Identity()
    head = new_head()
    optimizer = torch.optim.Adam(head.parameters(), fused=True)

    def loop(steps: int) -> None:
        for images_BCHW, labels_B in batches_of(images, transform, steps):
            with torch.autocast("cpu", torch.bfloat16):
                with torch.no_grad():
                    features_BF = backbone(images_BCHW.contiguous(memory_format=torch.channels_last))
                loss = cross_entropy(head(features_BF).float(), labels_B)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    return loop


class MemoryLoader(Loader):
    """Decoded images in memory, in place of shards."""

    def __init__(self, arrays: Arrays) -> None:
        self.times, self.bad_samples = InputTimes(), FailOnBadSample()
        sizes = np.array([array.shape[:2] for array in arrays])
        flat = [torch.from_numpy(array).reshape(-1, 3) for array in arrays]
        self._images = PackedImages(torch.cat(flat), np.cumsum(sizes.prod(axis=1)) - sizes.prod(axis=1), sizes)

    def batches(self, work: Work, augment: AugmentBatch) -> Iterator[Batch]:
        for view, ids_B in work:
            rows = np.maximum(ids_B, 0)
            images = PackedImages(self._images.pixels_PC, self._images.starts_B[rows], self._images.sizes_B2[rows])
            weights_B = torch.from_numpy((ids_B >= 0).astype(np.int64))
            yield Batch(augment(images, ids_B, view), torch.from_numpy(ids_B % 10), weights_B, ids_B, view)

    def close(self) -> None:
        pass


def our_training(folder: Path, name: str, arrays: Arrays, *keys: str) -> Loop:
    """The shipped recipe's training, with images from memory and random weights."""
    overrides = [
        "backbone.weights=none",
        "train.epochs=1000",
        "train.patience=null",
        "data.cache=none",
        f"run.dir={folder / name}",
        "log.wandb.mode=disabled",
    ]
    recipe = load_recipe(RECIPE, [*overrides, *keys]).recipe
    plan = make_plan(recipe, 1, {"train": NUM_IMAGES}, 10)
    strategy = build_strategy(recipe.strategy, World(), 0, False)
    classes = recipe.data.classes or ()
    manifest = Manifest("memory", classes, (), {"train": (NUM_IMAGES // 10,) * 10}, MEAN, STD)
    job = Job(recipe, plan, build_order(plan, manifest, 0), manifest, strategy, open_run(recipe))
    state, inputs = build_state(job), build_inputs(job, print)
    inputs = replace(inputs, image_feeds={"train": replace(inputs.image_feeds["train"], loader=MemoryLoader(arrays))})
    return our_loop(job, enter_stage(job, state, inputs, 0, 0, NullLog()))


def our_loop(job: Job, stage: Stage) -> Loop:
    done = 0

    def loop(steps: int) -> None:
        nonlocal done
        span = range(done + 1, done + steps + 1)
        set_training(stage.state.model)
        batches = stage.feeds["train"].batches(train_work(job, span))
        for step in span:
            train_step(job, stage, batches, step, FailOnNonfinite(), NullLog())
        done += steps

    return loop


def measure(loops: dict[str, Loop]) -> dict[str, list[float]]:
    """Images/s of each loop in each round; the loops take turns."""
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for number in range(ROUNDS):
        for name, loop in loops.items():
            loop(1)
            start = time.perf_counter()
            loop(STEPS[name])
            speeds[name].append(STEPS[name] * BATCH / (time.perf_counter() - start))
        print(
            f"round {number + 1}:", "  ".join(f"{name} {each[-1]:,.0f}/s" for name, each in speeds.items()), flush=True
        )
    return speeds


def product_speed(dtype: torch.dtype) -> float:
    """Floating point operations per second in products of 2048 x 2048 matrices, best of ROUNDS."""
    x, y = torch.randn(2, 2048, 2048).to(dtype)
    seconds = []
    for _ in range(ROUNDS + 1):
        start = time.perf_counter()
        for _ in range(5):
            x @ y
        seconds.append(time.perf_counter() - start)
    return 5 * 2 * 2048**3 / min(seconds)


def main() -> None:
    arrays = make_images()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.chdir(folder)
        fresh = our_training(folder, "fresh", arrays, "strategy.feature_cache_gib=0")
        kept = our_training(folder, "kept", arrays, "augment.views=1")
        loops = {
            "a": tutorial_loop(arrays),
            "b": careful_loop(arrays),
            "c": fresh,
            "d": kept,
        }
        speeds = measure(loops)
    median = {name: statistics.median(each) for name, each in speeds.items()}
    ratios = {
        f"{x}/{y}": round(statistics.median(p / q for p, q in zip(speeds[x], speeds[y], strict=True)), 2)
        for x, y in (("c", "a"), ("c", "b"), ("d", "a"))
    }
    metrics = {f"{name}_images_per_s": round(value, 1) for name, value in median.items()}
    fp32, bf16 = product_speed(torch.float32), product_speed(torch.bfloat16)
    limits = {"bf16/fp32_products": round(bf16 / fp32, 2), "c_of_limit": round(median["c"] * FLOP / bf16, 2)}
    print(json.dumps({**metrics, **ratios, **limits, "threads": torch.get_num_threads(), "rounds": ROUNDS}))


if __name__ == "__main__":
    main()
