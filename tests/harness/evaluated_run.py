"""A small run to be evaluated, its pictures as files, and what a plain loop makes of them."""

from __future__ import annotations

import io
import signal
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from launcher.distributed.signals import SIGNALS
from launcher.models.lenet import LeNet
from shards.manifest import read_manifest
from tests.harness.workdir import LENET, make_workdir

NUM_TEST = 9
CLASSES = ("class_0", "class_1", "class_2")


def train_lenet(path: Path, shards: Path, *overrides: str) -> None:
    """`path/run`, trained on `path/shards` until some test pictures are right, others wrong."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.MonkeyPatch.context() as patch:
        words = (LENET, "optim.lr=0.01", "train.epochs=2", "data.on_error=skip", *overrides)
        assert make_workdir(path, shards, patch).train(*words) == 0
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class Member:
    """A picture of a split, by Python's own tarfile."""

    name: str
    content: bytes
    label: int


def read_split(shards: Path, split: str) -> list[Member]:
    members = []
    for shard in read_manifest(shards).shards_of(split):
        with tarfile.open(shards / shard.name) as tar:
            contents = {info.name: file.read() for info in tar if (file := tar.extractfile(info)) is not None}
        for name, content in contents.items():
            if not name.endswith(".cls"):
                label = int(contents[name.rpartition(".")[0] + ".cls"])
                members.append(Member(f"{shard.name}/{name}", content, label))
    return members


def write_files(shards: Path, split: str, folder: Path) -> list[Path]:
    """The pictures of a split as files in a folder for each class, in the order of the split."""
    paths = []
    for member in read_split(shards, split):
        path = folder / CLASSES[member.label] / Path(member.name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(member.content)
        paths.append(path)
    return paths


def decode(content: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def plain_scores(run: Path, contents: list[bytes], turn: tuple[int, ...] = ()) -> Tensor:
    """scores_NK of the best checkpoint, one picture after the other; `turn`: axes of images_BCHW to flip."""
    model = LeNet(len(CLASSES))
    model.load_state_dict(load_file(run / "checkpoints/best/model.safetensors"))
    model.eval()
    pixels_NHWC = np.stack([decode(content) for content in contents]).astype(np.float32)
    images_NCHW = torch.from_numpy((pixels_NHWC / 255 - 0.5) / 0.25).permute(0, 3, 1, 2).flip(turn)
    with torch.inference_mode():
        return torch.cat([model(image_CHW[None]) for image_CHW in images_NCHW])
