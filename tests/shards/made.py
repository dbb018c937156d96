"""Real images, folders and tars, made without the package under test."""

from __future__ import annotations

import gc
import io
import json
import subprocess
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image


def image_bytes(seed: int, size: tuple[int, int] = (24, 16), file_format: str = "JPEG") -> bytes:
    """The file of a small image of noise. `size`: width, height."""
    pixels_HWC = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, format=file_format)
    return buffer.getvalue()


def make_folder(root: Path, counts: Mapping[str, int]) -> Path:
    """CLASS/NNN.jpg, `counts[class]` of each."""
    for number, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i:03d}.jpg").write_bytes(image_bytes(1000 * number + i))
    return root


def make_tar(path: Path, members: Mapping[str, bytes], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar of exactly these names, in this order."""
    with tarfile.open(path, "w", format=tar_format) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def labelled(number: int, label: int) -> dict[str, bytes]:
    """Two members: one image and its `.cls`."""
    return {f"{number:04d}.jpg": image_bytes(number), f"{number:04d}.cls": str(label).encode()}


def gnu_tar(path: Path, folder: Path, names: list[str], *options: str) -> Path:
    subprocess.run(["tar", *options, "-cf", str(path), "-C", str(folder), *names], check=True)
    return path


def as_json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def read_webdataset(*tars: Path) -> list[dict[str, bytes]]:
    """Samples as plain webdataset streams them; it leaves its files open."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        samples = list(webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False))
        gc.collect()
    return samples
