"""The picture of the first batch, and that drawing it takes nothing from the training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from launcher.data.feed import Examples
from launcher.errors import UserError
from launcher.train.first_batch import draw_first
from launcher.train.step import train_work
from tests.harness.recorded_log import RecordedLog
from tests.harness.workdir import LENET, Parts, WorkDir


def batches_of(parts: Parts) -> Iterator[Examples]:
    return parts.enter(0).feeds["train"].batches(train_work(parts.job, range(1, 3)))


@pytest.mark.parametrize("room", ["0", "20"])
def test_the_picture_is_drawn_and_every_batch_still_comes(workdir: WorkDir, room: str) -> None:
    """With features kept, the images of the picture are read again."""
    parts, log = workdir.build(LENET, f"strategy.feature_cache_gib={room}"), RecordedLog()
    expected = [each.ids_B.tolist() for each in batches_of(parts)]
    found = [each.ids_B.tolist() for each in draw_first(parts.job, parts.inputs, batches_of(parts), log)]
    assert found == expected
    assert log.events("picture") == [
        {"kind": "event", "step": 1, "name": "picture", "message": "", "picture": "augmented"}
    ]
    with Image.open(parts.job.run.pictures / "augmented.png") as picture:
        assert len(np.unique(np.asarray(picture.convert("RGB")))) > 10


def test_a_picture_that_cannot_be_drawn_is_a_note(workdir: WorkDir, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, log = workdir.build(LENET, "strategy.feature_cache_gib=20"), RecordedLog()
    batches = batches_of(parts)

    def fail(*_: object) -> torch.Tensor:
        raise UserError("shards: gone")

    monkeypatch.setattr(parts.inputs.image_feeds["train"].loader.reader, "read", fail)
    assert len(list(draw_first(parts.job, parts.inputs, batches, log))) == 2
    assert log.shown == ["augmented.png could not be drawn: shards: gone"]
