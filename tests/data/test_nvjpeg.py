"""Decoding by torchvision on the CPU and, where there is one, on a GPU, against each file decoded by itself.

On the CPU a recorder stands in the stream's place: the order of its calls is what keeps batches apart on a GPU.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import pytest
import torch
import torchvision.io
from PIL import Image
from sklearn.datasets import load_sample_image

from launcher.data.bad_samples import FailOnBadSample
from launcher.data.decode import open_image
from launcher.data.encoded import EncodedBatch, InputTimes
from launcher.data.nvjpeg import NvJpeg, nvjpeg_on
from launcher.errors import DataError
from tests.data.made import encode
from tests.data.recorded_stream import RecordedLock, RecordedStream

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


def decoder_on(device: torch.device) -> NvJpeg:
    return nvjpeg_on(device) if device.type == "cuda" else NvJpeg(RecordedStream("own", []).as_stream)


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def recorded(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> NvJpeg:
    """A decoder on the CPU that writes to `calls` what it does, in order."""
    decode_jpeg = torchvision.io.decode_jpeg

    def recorded_decode(*args: object, **options: object) -> list[torch.Tensor]:
        calls.append("decoded")
        return cast(list[torch.Tensor], decode_jpeg(*args, **options))

    monkeypatch.setattr("torchvision.io.decode_jpeg", recorded_decode)
    decoder = NvJpeg(RecordedStream("own", calls).as_stream)
    decoder._lock = cast(threading.Lock, RecordedLock(calls))
    return decoder


def fail_with(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> list[torch.Tensor]:
        raise RuntimeError(f"Error while decoding JPEG images: {message}")

    monkeypatch.setattr("torchvision.io.decode_jpeg", fail)


@pytest.mark.parametrize("device", DEVICES)
def test_every_kind_is_decoded_to_its_place(device: torch.device) -> None:
    batch = batch_of(kinds())
    (found, mark), expected = decoder_on(device).decode(batch), batch.decode()
    assert mark is not None
    assert found.device.type == device.type
    assert found.sizes_B2.tolist() == expected.sizes_B2.tolist()
    # The two interpolate colors differently, at sharp edges.
    difference = (found.pixels_PC.cpu().int() - expected.pixels_PC.int()).abs()
    assert float(difference.float().mean()) < 1.0
    assert device.type == "cuda" or not difference.any()


@pytest.mark.parametrize("device", DEVICES)
def test_large_files_are_decoded_at_a_reduced_size(device: torch.device) -> None:
    batch = batch_of([encode(PHOTOGRAPH.resize((1536, 1024)), "JPEG", quality=90)], 256)
    found, _ = decoder_on(device).decode(batch)
    assert found.sizes_B2.tolist() == [[256, 384]]
    assert float((found.image(0).cpu().int() - batch.image(0).int()).abs().float().mean()) < 2.0


@pytest.mark.parametrize("device", DEVICES)
def test_a_damaged_file_raises_data_error_with_its_place(device: torch.device) -> None:
    contents = kinds()
    contents[1] = contents[1][:-2000]
    with pytest.raises(DataError, match="file 1: cannot be decoded"):
        decoder_on(device).decode(batch_of(contents))


def test_memory_is_written_only_when_nothing_else_is_queued_on_its_stream(recorded: NvJpeg, calls: list[str]) -> None:
    """nvJPEG writes at once: what is queued on the stream that its memory is from would still read there."""
    for number in (1, 2):
        _, mark = recorded.decode(batch_of(kinds()[1:3]))
        assert calls == [
            "locked",
            "own: entered",
            "own: drained",
            "decoded",
            "own: copied",
            "own: copied",
            f"own {number}: marked",
            "own: left",
            "unlocked",
        ]
        assert getattr(mark, "name", None) == f"own {number}"
        calls.clear()


def test_threads_decode_one_after_the_other(calls: list[str], recorded: NvJpeg) -> None:
    recorded._lock = threading.Lock()
    batch, expected = batch_of(kinds()[1:3]), batch_of(kinds()[1:3]).decode().pixels_PC
    with ThreadPoolExecutor(4) as pool:
        for images, _ in pool.map(recorded.decode, [batch] * 12):
            assert torch.equal(images.pixels_PC, expected)
    one = ["own: entered", "own: drained", "decoded", "own: copied", "own: copied", "marked", "own: left"]
    assert [call if call in one else "marked" for call in calls] == one * 12


def test_other_formats_are_decoded_before_the_lock_is_taken(calls: list[str], recorded: NvJpeg) -> None:
    """Pillow takes longer than nvJPEG; other threads decode meanwhile."""
    batch = batch_of(kinds())
    images, _ = recorded.decode(batch)
    assert torch.equal(images.pixels_PC, batch.decode().pixels_PC)
    assert calls.count("own: copied") == len(kinds())
    calls.clear()
    images, mark = recorded.decode(batch_of([encode(PHOTOGRAPH.resize((91, 60)), "PNG")]))
    assert (images.sizes_B2.tolist(), mark, calls) == ([[60, 91]], None, [])


def test_what_nvjpeg_refuses_is_decoded_by_the_cpu_outside_of_the_lock(
    calls: list[str], recorded: NvJpeg, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with("Unknown chroma subsampling", monkeypatch)
    batch = batch_of(kinds())
    images, mark = recorded.decode(batch)
    assert torch.equal(images.pixels_PC, batch.decode().pixels_PC)
    assert (mark, calls) == (None, ["locked", "own: entered", "own: drained", "own: left", "unlocked"])


@pytest.mark.parametrize(
    "message", ["CUDA out of memory. Tried to allocate 1.20 GiB.", "Failed to decode batch: 5\nException raised from"]
)
def test_too_little_memory_is_not_mistaken_for_an_unsupported_file(
    recorded: NvJpeg, monkeypatch: pytest.MonkeyPatch, message: str
) -> None:
    """Torchvision makes a plain RuntimeError of everything."""
    fail_with(message, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError, match=message[:20]):
        recorded.decode(batch_of(kinds()))
    with pytest.raises(torch.OutOfMemoryError):
        recorded.is_available()


def test_nvjpeg_is_available_where_it_decodes(recorded: NvJpeg, monkeypatch: pytest.MonkeyPatch) -> None:
    assert recorded.is_available()
    fail_with("torchvision not compiled with nvJPEG support", monkeypatch)
    assert not recorded.is_available()


@pytest.mark.parametrize("device", [CUDA])
def test_batches_stay_apart_while_the_training_is_busy(device: torch.device) -> None:
    """A training has queued work for a while; two threads decode batches that each have a color of their own."""
    levels = [10 * number for number in range(20)]
    contents = [encode(Image.new("RGB", (500, 375), (level, 255 - level, 128)), "JPEG") for level in levels]
    batches, decoder = [batch_of([content] * 64) for content in contents], nvjpeg_on(device)
    torch.cuda._sleep(2 * 10**8)  # type: ignore[no-untyped-call]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(decoder.decode, batches))
    for level, (images, mark) in zip(levels, found, strict=True):
        assert mark is not None
        mark.synchronize()
        assert (images.pixels_PC[:, 0].int() - level).abs().max() <= 3
