"""Pictures for input.py: windows of scikit-learn's two photographs, no two alike, in image folders and tar shards."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images

NUM_CLASSES = 10
NUM_SHARDS = 4
MEAN_BYTES = 68_000
"""Of a photograph of about 500 x 375 pixels."""


def make_photographs(folder: Path, number: int) -> Path:
    """`folder/train/<class>/<number>.jpg`: windows of about 500 x 375 pixels, as sharp as the photographs are."""
    quality = _choose_quality(list(islice(_windows(), 32)))
    for i, window in enumerate(islice(_windows(), number)):
        window.save(_new_file(folder, i, "jpg"), quality=quality)
    return folder


def make_squares(folder: Path, number: int, side: int, suffix: str) -> Path:
    """The same, each scaled to a square."""
    for i, window in enumerate(islice(_windows(), number)):
        window.resize((side, side)).save(_new_file(folder, i, suffix))
    return folder


def pack(folder: Path, dest: Path, *options: str) -> Path:
    """An image folder as shards in `dest`."""
    size = -(-len(list_pictures(folder)) // NUM_SHARDS)
    command = [sys.executable, "-m", "shards", "pack", f"imagefolder:{folder}", str(dest), f"--images-per-shard={size}"]
    subprocess.run([*command, *options], check=True, stdout=subprocess.DEVNULL)
    return dest


def list_pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("train/*/*") if path.is_file())


def read_pictures(folder: Path, number: int) -> list[bytes]:
    """So many pictures' bytes, of every class."""
    paths = list_pictures(folder)
    return [path.read_bytes() for path in paths[:: max(1, len(paths) // number)][:number]]


def endlessly(paths: list[Path]) -> Iterator[Path]:
    """All of them, again and again, each time in another order."""
    rng = np.random.default_rng(0)
    orders: Iterable[Iterable[Path]] = ([paths[i] for i in rng.permutation(len(paths))] for _ in repeat(None))
    return chain.from_iterable(orders)


def _windows() -> Iterator[Image.Image]:
    photographs = [Image.fromarray(image) for image in load_sample_images().images]
    rng = np.random.default_rng(0)
    i = 0
    while True:
        width, height = 480 + int(rng.integers(41)), 355 + int(rng.integers(41))
        photograph = photographs[i % 2]
        left = int(rng.integers(photograph.width - width + 1))
        top = int(rng.integers(photograph.height - height + 1))
        window = photograph.crop((left, top, left + width, top + height))
        yield ImageEnhance.Brightness(window).enhance(float(rng.uniform(0.8, 1.2)))
        i += 1


def _choose_quality(windows: list[Image.Image]) -> int:
    def distance(quality: int) -> float:
        files = [io.BytesIO() for _ in windows]
        for window, file in zip(windows, files, strict=True):
            window.save(file, "jpeg", quality=quality)
        return abs(sum(len(file.getvalue()) for file in files) / len(files) - MEAN_BYTES)

    return min(range(88, 97), key=distance)


def _new_file(folder: Path, i: int, suffix: str) -> Path:
    path = folder / "train" / f"class{i % NUM_CLASSES}" / f"{i:05}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
