"""The way of a batch to a GPU: recorders stand in the place of its streams, and everything stays on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from launcher.augment.images import ImageBatch
from launcher.data.ids import Ids
from launcher.data.loader import Loader
from launcher.data.nvjpeg import NvJpeg
from launcher.data.reader import ShardReader
from shards.manifest import read_manifest
from shards.sources import PackOptions
from shards.write import pack
from tests.data.recorded_stream import RecordedStream

WORK = [(0, np.array(ids)) for ids in ([3, 1], [0, 5], [2, 4])]

pytestmark = pytest.mark.filterwarnings("ignore:The image decoding and encoding:DeprecationWarning")  # torchvision 0.29


@pytest.fixture
def reader(tmp_path: Path) -> ShardReader:
    pack("synthetic:2x10", tmp_path / "shards", PackOptions())
    return ShardReader(tmp_path / "shards", read_manifest(tmp_path / "shards"), "train")


@pytest.fixture
def calls() -> list[str]:
    return []


@pytest.fixture
def copies(calls: list[str], monkeypatch: pytest.MonkeyPatch) -> RecordedStream:
    """The stream of a loader's copies."""
    stream = RecordedStream("copies", calls)
    monkeypatch.setattr("launcher.data.loader.SideStream", lambda device: stream)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    return stream


def run(loader: Loader, calls: list[str]) -> list[Tensor]:
    """The pixels of each batch; the training notes in `calls` where it uses them."""
    pixels: list[Tensor] = []

    def augment(images: ImageBatch, ids_B: Ids, view: int) -> Tensor:
        calls.append("used")
        pixels.append(torch.cat([images.image(row).flatten().clone() for row in range(len(ids_B))]))
        return torch.zeros(len(ids_B), 3, 1, 1)

    list(loader.batches(WORK, augment))
    loader.close()
    return pixels


@pytest.mark.parametrize("workers", [0, 2])
def test_training_waits_for_the_mark_of_the_decoding(
    reader: ShardReader, calls: list[str], copies: RecordedStream, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """The copies wait for the decoding's mark, and the training for theirs, before it uses the images."""
    own = RecordedStream("own", calls)
    monkeypatch.setattr("launcher.data.loader.nvjpeg_on", lambda device: NvJpeg(own.as_stream))
    found = run(Loader(reader, workers, torch.device("cuda"), None, True), calls)
    expected = run(Loader(reader, 0, torch.device("cpu")), [])
    assert all(map(torch.equal, found, expected))
    waits = [call for call in calls if call.startswith("copies: waits for own")]
    assert len(set(waits)) == len(WORK)
    for number, wait in enumerate(waits, 1):
        decoded = f"{wait.removeprefix('copies: waits for ')}: marked"
        start, end = f"copies {2 * number - 1}", f"copies {2 * number}"
        order = [decoded, wait, f"{start}: marked", f"{end}: marked", f"copies: handed over after {end}"]
        places = [calls.index(call) for call in order]
        assert places == sorted(places)
        assert calls[places[-1] + 1] == "used"
    uses = [place for place, call in enumerate(calls) if call == "used"]
    assert calls.index("copies 4: marked") < uses[0], "while one batch is used, the next is copied"
    sizes = [tensor.numel() for tensor in copies.handed_over]
    assert sizes == [size for pixels in expected for size in (pixels.numel(), 2, 2)], "images, labels and weights"
