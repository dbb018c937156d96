"""The room of `data.cache` on a GPU, which its splits share. The GPU is a fake of five times the images of a split."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from launcher.data.decode_cache import cache_decoded
from launcher.data.decoded import DecodedCache
from launcher.data.loader import Loader
from launcher.data.reader import ShardReader
from launcher.distributed.strategy import Strategy
from launcher.distributed.world import World
from shards.manifest import read_manifest
from tests.data.made import SIDE, recipe_of

NUM_IMAGES = 42
SPLIT_BYTES = 3 * SIDE * SIDE * NUM_IMAGES


def test_all_splits_together_take_a_quarter_of_a_gpu(few_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaders: list[Loader] = []
    said: list[str] = []

    def to_fake_gpu(self: DecodedCache, device: torch.device) -> DecodedCache:
        where = torch.device("meta") if device.type == "cuda" else device
        return replace(self, images=self.images.to(where))

    def free_and_total(device: torch.device) -> tuple[int, int]:
        total = 5 * SPLIT_BYTES
        return total - sum(loader.device_bytes for loader in loaders), total

    monkeypatch.setattr(DecodedCache, "to", to_fake_gpu)
    monkeypatch.setattr(torch.cuda, "mem_get_info", free_and_total)
    comm = SimpleNamespace(world=World(), all_gather_object=lambda value: [value])
    strategy = cast(Strategy, SimpleNamespace(device=torch.device("cuda"), world=World(), comm=comm))

    def cache() -> str:
        """Where the images of one more loader are kept."""
        loaders.append(Loader(ShardReader(few_shards, read_manifest(few_shards), "train"), 0, torch.device("cpu")))
        cache_decoded(strategy, "train", loaders[-1], recipe_of().data, "run", said.append)
        return said[-1].split(", ")[1].partition(" KiB ")[2]

    assert [cache() for _ in range(3)] == ["on cuda", "in memory", "in memory"]
    assert [loader.device_bytes for loader in loaders] == [SPLIT_BYTES, 0, 0]
    loaders[0].use_decoded(None)
    assert cache() == "on cuda", "what a split has given back is free for another"
