"""Tests with hostile files."""

from __future__ import annotations

import pytest

from launcher.distributed.world import SRUN, TORCHRUN


@pytest.fixture(autouse=True)
def single_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the variables of a launcher or an allocation around the tests."""
    for name in (*TORCHRUN.values(), *SRUN.values()):
        monkeypatch.delenv(name, raising=False)
