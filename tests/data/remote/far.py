"""Readers of shards at a URL through a cache, and what they must give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from launcher.data.prepare import open_folder, prepare_data
from launcher.data.reader import ShardReader
from launcher.distributed.world import World
from launcher.recipe.schema import Data
from shards.manifest import MANIFEST_NAME, read_manifest


def data_of(url: str, cache: Path, **keys: Any) -> Data:
    return Data(dir=url, remote_cache=str(cache), **keys)


def reader_of(data: Data, split: str = "train", num_local: int = 1) -> ShardReader:
    world = World(0, num_local, 0, num_local)
    manifest = prepare_data(data, world)
    return ShardReader(open_folder(data, manifest, world), manifest, split)


def read_all(reader: ShardReader) -> list[tuple[bytes, int]]:
    return [(sample.content, sample.label) for sample in map(reader.read, range(reader.num_images))]


def expected(folder: Path, split: str = "train") -> list[tuple[bytes, int]]:
    return read_all(ShardReader(folder, read_manifest(folder), split))


def tars(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*/*.tar"))


def change(folder: Path, dest: Path, **changes: Any) -> None:
    """A copy whose manifest has other values for the first shard."""
    dest.mkdir()
    for path in folder.iterdir():
        (dest / path.name).write_bytes(path.read_bytes())
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    raw["shards"][0] |= changes
    (dest / MANIFEST_NAME).write_text(json.dumps(raw))


def check_one_line(error: pytest.ExceptionInfo[Any], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []
