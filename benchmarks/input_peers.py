"""What others offer for job A: files -> endless batches of 32 normalised images, float32, 3 x 224 x 224.

Each row of PEERS is a function of (the benchmark's folder, workers). DataLoader workers are processes, in which torch
has one thread; SPDL and DALI have threads. B batch, C channels, H height, W width.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torchvision
from input_pictures import endlessly, list_pictures
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.io import ImageReadMode, decode_jpeg
from torchvision.transforms import v2

BATCH = 32
MANY = 100
"""Passes over the pictures, more than are ever measured."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALE, RATIO = (0.8, 1.0), (0.75, 1.33)

Batches = Iterator[Any]


@dataclass(frozen=True, slots=True)
class Peer:
    library: str
    """What has to be importable."""
    batches: Callable[[Path, int], Batches]
    shared: str | None = None
    """A shared library that has to be there too."""

    @property
    def is_there(self) -> bool:
        try:
            is_importable = find_spec(self.library) is not None
        except ModuleNotFoundError:
            return False
        return is_importable and (self.shared is None or find_library(self.shared) is not None)


def make_transform(kind: Any, *last: Any) -> Any:
    """Job A's augmentation by torchvision: `kind` is its module for Pillow images or for tensors."""
    return kind.Compose(
        [
            kind.RandomResizedCrop(256, scale=SCALE, ratio=RATIO),
            kind.RandomRotation(15),
            kind.RandomHorizontalFlip(),
            kind.CenterCrop(224),
            *last,
            kind.Normalize(MEAN, STD),
        ]
    )


def by_pillow() -> Any:
    return make_transform(transforms, transforms.ToTensor())


def by_tensors() -> Callable[[bytes], Tensor]:
    """A JPEG file to its end by torchvision alone, in bytes until normalised."""
    transform = make_transform(v2, v2.ToDtype(torch.float32, scale=True))

    def load(content: bytes) -> Tensor:
        bytes_N = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        images_CHW: Tensor = transform(decode_jpeg(bytes_N, ImageReadMode.RGB))
        return images_CHW

    return load


def image_folder(folder: Path, workers: int) -> Batches:
    dataset = torchvision.datasets.ImageFolder(folder / "pictures/train", by_pillow())
    sampler = RandomSampler(dataset, num_samples=MANY * len(dataset))
    for images_BCHW, _ in DataLoader(dataset, BATCH, sampler=sampler, num_workers=workers):
        yield images_BCHW


def webdataset_pil(folder: Path, workers: int) -> Batches:
    transform = by_pillow()
    samples = _webdataset(folder).decode("pil").to_tuple("jpg", "cls").map_tuple(transform, int)
    for images_BCHW, _ in _load(samples.batched(BATCH), workers):
        yield images_BCHW


def webdataset_tensors(folder: Path, workers: int) -> Batches:
    samples = _webdataset(folder).to_tuple("jpg", "cls").map_tuple(by_tensors(), int)
    for images_BCHW, _ in _load(samples.batched(BATCH), workers):
        yield images_BCHW


def webdataset_reading(folder: Path, workers: int) -> Batches:
    """Nothing is done with the files' bytes."""
    for contents, _ in _load(_webdataset(folder).to_tuple("jpg", "cls").batched(BATCH), workers):
        yield contents


def _webdataset(folder: Path) -> Any:
    import webdataset

    tars = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    return webdataset.WebDataset(tars, shardshuffle=len(tars), empty_check=False).repeat(MANY).shuffle(256)


def _load(dataset: Any, workers: int) -> Batches:
    return iter(DataLoader(dataset, batch_size=None, num_workers=workers))


def write_streaming(folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder / "mds"), columns={"jpg": "bytes", "cls": "int"}) as writer:
        for path in list_pictures(folder / "pictures"):
            writer.write({"jpg": path.read_bytes(), "cls": int(path.parent.name[5:])})


def streaming(folder: Path, workers: int) -> Batches:
    import io

    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    transform = by_pillow()

    class Pictures(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            sample = super().__getitem__(index)
            return transform(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")), sample["cls"]

    clean_stale_shared_memory()
    while True:
        dataset = Pictures(local=str(folder / "mds"), batch_size=BATCH, shuffle=True, epoch_size="50k")
        for images_BCHW, _ in DataLoader(dataset, BATCH, num_workers=workers):
            yield images_BCHW


def spdl(folder: Path, workers: int) -> Batches:
    """Its threads, torchvision's functions."""
    transform = by_tensors()
    return _spdl(folder, workers, lambda path: transform(path.read_bytes()), torch.stack)


def spdl_ffmpeg(folder: Path, workers: int) -> Batches:
    """Decoded and augmented by FFmpeg's filters."""
    import spdl.io

    mean_C, std_C = torch.tensor(MEAN) * 255, torch.tensor(STD) * 255

    def load(path: Path) -> Any:
        packets = spdl.io.demux_image(str(path))
        return spdl.io.decode_packets(packets, filter_desc=_ffmpeg_filters(packets.width, packets.height))

    def gather(frames: list[Any]) -> Tensor:
        images_BHWC: Tensor = spdl.io.to_torch(spdl.io.convert_frames(frames))
        return images_BHWC.float().sub_(mean_C).div_(std_C).permute(0, 3, 1, 2)

    return _spdl(folder, workers, load, gather)


def _spdl(
    folder: Path, workers: int, load: Callable[[Path], Any], gather: Callable[[list[Any]], Tensor]
) -> Iterator[Tensor]:
    from spdl.pipeline import PipelineBuilder

    torch.set_num_threads(1)
    builder = PipelineBuilder().add_source(endlessly(list_pictures(folder / "pictures")))
    builder = builder.pipe(load, concurrency=workers).aggregate(BATCH).pipe(gather).add_sink(2)
    pipeline = builder.build(num_threads=workers)
    with pipeline.auto_stop():
        yield from pipeline.get_iterator()


def _ffmpeg_filters(width: int, height: int) -> str:
    """Job A's augmentation of one picture, drawn as torchvision draws it."""
    for _ in range(10):
        area = width * height * random.uniform(*SCALE)
        ratio = math.exp(random.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if w <= width and h <= height:
            break
    else:
        w = h = min(width, height)
    left, top = random.randint(0, width - w), random.randint(0, height - h)
    turn = f"rotate={math.radians(random.uniform(-15, 15))}:bilinear=0"
    flip = ["hflip"] if random.random() < 0.5 else []
    scale = "scale=256:256:flags=bilinear"
    return ",".join([f"crop={w}:{h}:{left}:{top}", scale, turn, *flip, "crop=224:224", "format=rgb24"])


def dali(folder: Path, workers: int) -> Batches:
    """On the CPU."""
    from nvidia.dali import fn, pipeline_def, types

    def job() -> Any:
        files, labels = fn.readers.file(file_root=str(folder / "pictures/train"), random_shuffle=True)
        images = fn.decoders.image_random_crop(files, device="cpu", random_area=SCALE, random_aspect_ratio=RATIO)
        images = fn.resize(images, size=(256, 256))
        images = fn.rotate(images, angle=fn.random.uniform(range=(-15, 15)), keep_size=True, fill_value=0)
        images = fn.crop_mirror_normalize(
            images,
            crop=(224, 224),
            mirror=fn.random.coin_flip(),
            mean=[255 * value for value in MEAN],
            std=[255 * value for value in STD],
            dtype=types.FLOAT,
            output_layout="CHW",
        )
        return images, labels

    pipeline = pipeline_def(job)(batch_size=BATCH, num_threads=workers, device_id=None)
    pipeline.build()
    while True:
        images, _ = pipeline.run()
        yield torch.from_numpy(images.as_array())


PEERS = {
    "image_folder": Peer("torchvision", image_folder),
    "webdataset_pil": Peer("webdataset", webdataset_pil),
    "webdataset_tensors": Peer("webdataset", webdataset_tensors),
    "webdataset_reading": Peer("webdataset", webdataset_reading),
    "streaming": Peer("streaming", streaming),
    "spdl": Peer("spdl.pipeline", spdl),
    "spdl_ffmpeg": Peer("spdl.io", spdl_ffmpeg, "avfilter"),
    "dali": Peer("nvidia.dali", dali),
}
