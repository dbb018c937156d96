"""Unreadable images and two processes: one line, or skipped and counted, and nothing else changes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from shards.manifest import read_index, read_manifest
from tests.harness.runs import DIGITS, events, run, summary, train, train_records

DAMAGED = {"train": 5, "valid": 0, "test": 2}
"""Image of each split. The first is among those that are looked at to tell whether a split fits into memory."""
COMMON = ["train.epochs=2", "data.workers=1", "log.wandb.mode=disabled", "log.samples=true", "run.dir=run"]


@pytest.fixture
def damaged(tmp_path: Path, digits: Path) -> Path:
    """Shards in which some images are none, whatever their hashes say."""
    folder = tmp_path / "shards"
    shutil.copytree(digits, folder)
    manifest = read_manifest(folder)
    for split, row in DAMAGED.items():
        tar = folder / manifest.shards_of(split)[0].name
        offset, size, _ = (int(value) for value in read_index(tar)[row])
        content = bytearray(tar.read_bytes())
        content[offset : offset + size] = bytes(size)
        tar.write_bytes(content)
    return folder


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_unreadable_images_are_skipped_and_counted(tmp_path: Path, damaged: Path, freeze: str) -> None:
    """`backbone`: from features that are computed once."""
    words = [*COMMON, f"data.dir={damaged}", "data.on_error=skip", f"backbone.freeze={freeze}", "augment.views=1"]
    train(DIGITS, *words, cwd=tmp_path, processes=2)
    skipped = {event["split"]: event for event in events(tmp_path / "run", "skipped_samples")}
    assert set(skipped) == set(DAMAGED)
    for split, row in DAMAGED.items():
        [message] = skipped[split]["messages"]
        assert f"image {row}" in message
        assert skipped[split]["shards"] == {read_manifest(damaged).shards_of(split)[0].name: 1}
    metrics = summary(tmp_path / "run")["test"]
    manifest = read_manifest(damaged)
    assert metrics["num_skipped"] == 1
    assert metrics["num_images"] == manifest.num_images("test") - 1
    assert summary(tmp_path / "run")["status"] == "done"
    assert summary(tmp_path / "run")["skipped_samples"] == dict.fromkeys(DAMAGED, 1)
    assert all(record["loss"] == record["loss"] for record in train_records(tmp_path / "run").values())


def test_a_probe_skips_them_too(tmp_path: Path, damaged: Path) -> None:
    words = ["train.epochs=1", "log.wandb.mode=disabled", f"data.dir={damaged}", "data.on_error=skip"]
    train("probe", DIGITS, *words, "run.name=digits", cwd=tmp_path)
    [folder] = (tmp_path / "runs/digits").glob("probe-*")
    manifest = read_manifest(damaged)
    assert {split: summary(folder)[split]["num_images"] for split in DAMAGED} == {
        split: manifest.num_images(split) - 1 for split in DAMAGED
    }
    assert {event["split"] for event in events(folder, "skipped_samples")} == set(DAMAGED)


def test_too_many_unreadable_images_end_every_process(tmp_path: Path, damaged: Path) -> None:
    words = [*COMMON, f"data.dir={damaged}", "data.on_error=skip", "data.max_skipped=1"]
    first = damaged / read_manifest(damaged).shards_of("valid")[0].name
    first.write_bytes(first.read_bytes()[:4000])
    ended = run(DIGITS, *words, cwd=tmp_path, processes=2)
    assert ended.code != 0
    assert "cannot be read" in ended.err
    assert "data.max_skipped allows 1" in ended.err


def test_an_unreadable_image_ends_the_run_otherwise(tmp_path: Path, damaged: Path) -> None:
    ended = run(DIGITS, *COMMON, f"data.dir={damaged}", cwd=tmp_path, processes=2)
    assert ended.code != 0
    assert "cannot be decoded" in ended.err
