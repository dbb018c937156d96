"""Decoding by torchvision on the CPU and, where there is one, on a GPU, against each file decoded by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from launcher.data.bad_samples import FailOnBadSample
from launcher.data.decode import open_image
from launcher.data.encoded import EncodedBatch, InputTimes
from launcher.data.nvjpeg import decode_batch, time_decoders
from launcher.data.reader import ShardReader
from launcher.errors import DataError
from shards.manifest import read_manifest
from shards.sources import PackOptions
from shards.write import pack
from tests.data.made import encode

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision 0.29

CUDA = pytest.param(
    torch.device("cuda"),
    marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")],
)
DEVICES = [torch.device("cpu"), CUDA]
PHOTOGRAPH = Image.fromarray(load_sample_image("flower.jpg"))


def batch_of(contents: list[bytes], min_side: int | None = None) -> EncodedBatch:
    encoded = tuple(open_image(content, f"file {number}", min_side) for number, content in enumerate(contents))
    sizes_B2 = np.array([each.size for each in encoded], dtype=np.int64)
    scratch_N = np.empty(3 * int(sizes_B2.prod(axis=1).max()), dtype=np.uint8)
    return EncodedBatch(encoded, np.arange(len(encoded)), sizes_B2, scratch_N, InputTimes(), FailOnBadSample())


def rotated(image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encode(image, "JPEG", exif=exif)


def kinds() -> list[bytes]:
    """Plain JPEG of several sizes, gray, rotated by EXIF, CMYK and PNG."""
    small = PHOTOGRAPH.resize((91, 60))
    plain = [encode(PHOTOGRAPH, "JPEG", quality=90), encode(small, "JPEG"), encode(small.convert("L"), "JPEG")]
    return [rotated(small), *plain, encode(small.convert("CMYK"), "JPEG"), encode(small, "PNG")]


@pytest.mark.parametrize("device", DEVICES)
def test_every_kind_is_decoded_to_its_place(device: torch.device) -> None:
    batch = batch_of(kinds())
    found, expected = decode_batch(batch, device), batch.decode()
    assert found.device.type == device.type
    assert found.sizes_B2.tolist() == expected.sizes_B2.tolist()
    # The two interpolate colors differently, at sharp edges.
    difference = (found.pixels_PC.cpu().int() - expected.pixels_PC.int()).abs()
    assert float(difference.float().mean()) < 1.0
    assert device.type == "cuda" or not difference.any()


@pytest.mark.parametrize("device", DEVICES)
def test_large_files_are_decoded_at_a_reduced_size(device: torch.device) -> None:
    batch = batch_of([encode(PHOTOGRAPH.resize((1536, 1024)), "JPEG", quality=90)], 256)
    found = decode_batch(batch, device)
    assert found.sizes_B2.tolist() == [[256, 384]]
    assert float((found.image(0).cpu().int() - batch.image(0).int()).abs().float().mean()) < 2.0


@pytest.mark.parametrize("device", DEVICES)
def test_a_damaged_file_raises_data_error_with_its_place(device: torch.device) -> None:
    contents = kinds()
    contents[1] = contents[1][:-2000]
    with pytest.raises(DataError, match="file 1: cannot be decoded"):
        decode_batch(batch_of(contents), device)


@pytest.mark.parametrize("device", DEVICES)
def test_both_decoders_are_timed(tmp_path: Path, device: torch.device) -> None:
    pack("synthetic:2x10", tmp_path / "shards", PackOptions())
    reader = ShardReader(tmp_path / "shards", read_manifest(tmp_path / "shards"), "train")
    assert min(time_decoders(reader, None, 2, device)) > 0
