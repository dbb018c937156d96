"""Damaged pictures and two processes: one line, or left out and counted, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shards.manifest import read_index, read_manifest
from tests.runs import DIGITS, events, run, summary, train, train_records

COMMON = ["train.epochs=2", "data.workers=1", "log.wandb.mode=disabled", "log.samples=true", "run.dir=run"]


@pytest.fixture
def damaged(tmp_path: Path, digits: Path) -> Path:
    """Shards in which image 5 of train and image 2 of test are no images, whatever their hashes say."""
    folder = tmp_path / "shards"
    shutil.copytree(digits, folder)
    manifest = read_manifest(folder)
    for split, row in (("train", 5), ("test", 2)):
        tar = folder / manifest.shards_of(split)[0].name
        offset, size, _ = (int(value) for value in read_index(tar)[row])
        content = bytearray(tar.read_bytes())
        content[offset : offset + size] = bytes(size)
        tar.write_bytes(content)
    return folder


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_they_are_left_out_and_counted(tmp_path: Path, damaged: Path, freeze: str) -> None:
    """`backbone`: from features that are computed once."""
    words = [*COMMON, f"data.dir={damaged}", "data.on_error=skip", f"backbone.freeze={freeze}", "augment.views=1"]
    train(DIGITS, *words, cwd=tmp_path, processes=2)
    left_out = {event["split"]: event for event in events(tmp_path / "run", "left_out")}
    assert set(left_out) == {"train", "test"}
    for split, row in (("train", 5), ("test", 2)):
        [message] = left_out[split]["messages"]
        assert f"image {row}" in message
        assert list(left_out[split]["shards"].values()) == [1]
    figures = summary(tmp_path / "run")["test"]
    manifest = read_manifest(damaged)
    assert figures["num_left_out"] == 1
    assert figures["num_images"] == manifest.num_images("test") - 1
    assert summary(tmp_path / "run")["status"] == "done"
    assert all(record["loss"] == record["loss"] for record in train_records(tmp_path / "run").values())


def test_they_end_the_run_otherwise(tmp_path: Path, damaged: Path) -> None:
    ended = run(DIGITS, *COMMON, f"data.dir={damaged}", cwd=tmp_path, processes=2)
    assert ended.code != 0
    assert "image 5: cannot be decoded" in ended.err
