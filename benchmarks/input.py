"""Reading, decoding and augmenting, ours and others', and the program against a bare loop, side by side.

    python benchmarks/input.py             # 3 rounds; N=200 ROUNDS=1 SHORTER=10 for a trial

1,500 JPEG files of about 500 x 375 pixels and 68 KB, in an image folder and in 4 tar shards, read from the page cache.
Job A: RandomResizedCrop(256, scale 0.8-1, ratio 0.75-1.33), RandomRotation(15), RandomHorizontalFlip, CenterCrop(224),
normalise: batches of 32, float32, 3 x 224 x 224. Each measurement is a process of its own; in turn:
decode         files in memory to pixels on one core: Pillow, torchvision's decode_jpeg, ours
peers          job A with 1 and 2 workers: see input_peers.py; webdataset_reading reads and does nothing with it
ours           job A with 1 and 2 workers, from the same shards, augmented on the CPU
worker_side    ours with 1 worker: read and decoded into a batch; worker_side_320: from shards packed to 320 pixels
decoded_side   ours with 1 worker and data.cache, all that comes before the augmentation; ours_decoded: with job A
lenet128 ...   images/s of the program and of a bare loop: see input_loops.py; on the GPU where there is one
A worker is a core: with n workers the whole process with all its threads and children is held to n cores, ours and
peers alike. Needs the extra `bench`; what is not there is named and left out, as are DALI (nvidia-dali-cuda130, its CPU
path) and SPDL's own decoder (FFmpeg's libraries). FFCV is never measured: it has no rotation, and pip cannot build it
without OpenCV and libturbojpeg.
The last line is one JSON object: images/s (median over rounds) and ratios (median over rounds).
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import input_loops
import numpy as np
import torch
from input_peers import BATCH, PEERS, Batches, write_streaming
from input_pictures import make_photographs, pack, read_pictures
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from launcher.augment.execute import build_augment
from launcher.augment.images import ImageBatch, PackedImages
from launcher.augment.sizes import find_min_side
from launcher.data.decode import decode_image
from launcher.data.decode_cache import cache_decoded
from launcher.data.encoded import EncodedBatch
from launcher.data.feed import ImageFeed
from launcher.data.ids import Ids
from launcher.data.loader import Loader
from launcher.data.order import epoch_order
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import build_strategy
from launcher.distributed.world import World
from launcher.malloc import keep_freed_memory
from launcher.recipe.fields import with_values
from launcher.recipe.parse import load_recipe
from shards.manifest import read_manifest

JOB_A = Path(__file__).parent.parent / "recipes/resnet50_caltech.yaml"
N = int(os.environ.get("N", "1500"))
ROUNDS = int(os.environ.get("ROUNDS", "3"))
LOOP_CORES = int(os.environ.get("LOOP_CORES", "0")) or None
"""Of the program and of the bare loop; None: all. On a busy machine one: torch's threads wait for each other there."""
WARM = 4
"""Batches before those that are timed."""
RATIOS = (
    ("ours_1", "webdataset_pil_1"),
    ("ours_1", "decode"),
    ("ours_2", "ours_1"),
    ("worker_side", "decode"),
    ("worker_side_320", "decode"),
    ("ours_decoded", "webdataset_pil_1"),
    *((f"{name}", f"{name}_bare") for name in input_loops.JOBS),
)

Metrics = dict[str, float]


def ours(folder: Path, workers: int, augmented: bool = True, decoded: bool = False) -> Batches:
    """Job A as the program does it, or what comes before the augmentation; with `data.cache` or from the shards."""
    keep_freed_memory()
    packed = ["data.source=null", "data.classes=null", "data.split=null", f"data.dir={folder}"]
    recipe = load_recipe(JOB_A, [*packed, "backbone.weights=none", "strategy.device=cpu"]).recipe
    manifest = read_manifest(folder)
    strategy = build_strategy(recipe.strategy, World(), 0, False)
    mean, std = recipe.augment.normalisation(manifest.mean, manifest.std)
    side = find_min_side(recipe.augment.train)
    loader = Loader(ShardReader(folder, manifest, "train"), workers, strategy.device, side)
    work = _work(manifest.num_images("train"))
    if decoded:
        cache_decoded(strategy, "train", loader, with_values(recipe.data, {"cache_gib": 16.0}), "bench", print)
    if not augmented:
        images = loader.batches(work, lambda images, ids_B, view: _touched(images))
        return (batch.images_BChw for batch in images)
    feed = ImageFeed(
        loader, build_augment(recipe.augment.train, mean, std, strategy.memory_format), strategy, 0, None, None
    )
    return (examples.inputs[0] for examples in feed.batches(work))


def _touched(images: ImageBatch) -> Tensor:
    """The first channel of one pixel of each image, which is decoded whole."""
    packed = images.decode() if isinstance(images, EncodedBatch) else images
    assert isinstance(packed, PackedImages)
    return packed.pixels_PC[torch.from_numpy(packed.starts_B), 0]


def _work(num_images: int) -> Iterator[tuple[int, Ids]]:
    for epoch in count():
        order = epoch_order(num_images, 0, epoch)
        for start in range(0, num_images - BATCH + 1, BATCH):
            yield epoch, order[start : start + BATCH]


def time_batches(batches: Batches, is_whole: bool) -> float:
    """Images/s. `is_whole`: job A to its end, which is checked."""
    for _ in range(WARM):
        batch = next(batches)
        if is_whole:
            assert batch.shape == (BATCH, 3, 224, 224), batch.shape
            assert batch.dtype == torch.float32
            assert 0.5 < batch.std() < 2, "not normalised"
    done, start = 0, time.perf_counter()
    while done < N:
        done += len(next(batches))
    return done / (time.perf_counter() - start)


def time_decoders(folder: Path) -> Metrics:
    contents = read_pictures(folder / "pictures", min(N, 300))
    torch.set_num_threads(1)

    def pillow(content: bytes) -> Any:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def torchvision(content: bytes) -> Any:
        return decode_jpeg(torch.frombuffer(bytearray(content), dtype=torch.uint8), ImageReadMode.RGB)

    def project(content: bytes) -> Any:
        return decode_image(content, "memory")

    def speed(decode: Callable[[bytes], Any]) -> float:
        for content in contents[:10]:
            decode(content)
        start = time.perf_counter()
        for content in contents:
            decode(content)
        return len(contents) / (time.perf_counter() - start)

    return {"decode_pil": speed(pillow), "decode_torchvision": speed(torchvision), "decode": speed(project)}


def measure(name: str, folder: Path, workers: int) -> Metrics:
    """In a process of its own."""
    if name == "decoders":
        return time_decoders(folder)
    if name in input_loops.JOBS:
        return {f"{name}_bare": input_loops.bare(folder, name)}
    if name in PEERS:
        batches = PEERS[name].batches(folder, workers)
        return {f"{name}_{workers}": time_batches(batches, name != "webdataset_reading")}
    if name == "ours":
        return {f"ours_{workers}": time_batches(ours(folder / "shards", workers), True)}
    if name == "ours_decoded":
        return {name: time_batches(ours(folder / "shards", workers, decoded=True), True)}
    if name == "decoded_side":
        return {name: time_batches(ours(folder / "shards", workers, augmented=False, decoded=True), False)}
    shards = {"worker_side": "shards", "worker_side_320": "shards_320"}[name]
    return {name: time_batches(ours(folder / shards, workers, augmented=False), False)}


@contextmanager
def on_cores(number: int | None) -> Iterator[None]:
    """Processes started within are held to so many cores, with all that they start. None: all."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(cores)[:number])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def run_alone(name: str, folder: Path, workers: int | None) -> Metrics:
    """`measure` on as many cores as workers, with nothing left over from the one before."""
    command = [sys.executable, __file__, name, str(folder), str(workers or 0)]
    with on_cores(workers):
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    metrics: Metrics = json.loads(output.splitlines()[-1])
    return metrics


def run_round(folder: Path) -> Iterator[Metrics]:
    yield run_alone("decoders", folder, 1)
    counts = [workers for workers in (1, 2) if workers <= len(os.sched_getaffinity(0))]
    for name in [*(name for name, peer in PEERS.items() if peer.is_there), "ours"]:
        for workers in counts:
            yield run_alone(name, folder, workers)
    yield run_alone("worker_side", folder, 1)
    yield run_alone("worker_side_320", folder, 1)
    yield run_alone("decoded_side", folder, 1)
    yield run_alone("ours_decoded", folder, 1)
    for name in input_loops.JOBS:
        yield run_alone(name, folder, LOOP_CORES)
        with on_cores(LOOP_CORES):
            speed = input_loops.program(folder, name)
        yield {name: speed}


def prepare(folder: Path) -> None:
    pictures = make_photographs(folder / "pictures", N)
    pack(pictures, folder / "shards")
    pack(pictures, folder / "shards_320", "--max-side=320")
    if PEERS["streaming"].is_there:
        write_streaming(folder)
    input_loops.prepare(folder)
    sizes = [path.stat().st_size for path in pictures.glob("*/*/*")]
    print(f"{len(sizes)} JPEG files of {statistics.mean(sizes):,.0f} bytes", flush=True)
    absent = [name for name, peer in PEERS.items() if not peer.is_there]
    print(f"absent: {', '.join([*absent, 'ffcv'])}", flush=True)


def main() -> None:
    rounds: list[Metrics] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        for number in range(ROUNDS):
            rounds.append({})
            for metrics in run_round(folder):
                rounds[-1] |= metrics
                shown = "  ".join(f"{name} {value:,.0f}/s" for name, value in metrics.items())
                print(f"round {number + 1}: {shown}", flush=True)
    medians = {f"{name}_images_per_s": round(statistics.median(each[name] for each in rounds), 1) for name in rounds[0]}
    ratios = {
        f"{a}/{b.removeprefix(f'{a}_')}": round(statistics.median(each[a] / each[b] for each in rounds), 3)
        for a, b in RATIOS
        if a in rounds[0] and b in rounds[0]
    }
    print(json.dumps({**medians, **ratios, "device": "cuda" if torch.cuda.is_available() else "cpu", "rounds": ROUNDS}))


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
    else:
        main()
