"""Servers of shards, and clients that retry at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from launcher.data.remote import store
from tests.data.remote.shard_server import Served, serve


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def served(few_shards: Path) -> Iterator[Served]:
    with serve(few_shards) as served:
        yield served
