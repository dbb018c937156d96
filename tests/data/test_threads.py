"""The number of loading threads. What they do is tested in `test_loader`."""

from __future__ import annotations

import pytest

from launcher.data.threads import count_workers
from launcher.distributed.world import World


def test_workers_are_those_wanted_or_a_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    assert count_workers(None, World(size=8, local_size=4)) == 4
    assert count_workers(None, World(size=32, local_size=32)) == 1
    assert count_workers(0, World()) == 0
