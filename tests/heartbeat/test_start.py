from __future__ import annotations

import threading
from pathlib import Path

import pytest

from launcher.heartbeat.start import start_heartbeat
from launcher.heartbeat.thread import NoHeartbeat
from tests.small_run import alone


def test_off_is_a_heartbeat_that_does_nothing(tmp_path: Path) -> None:
    heartbeat = start_heartbeat(alone(), None, tmp_path, pytest.fail, pytest.fail)
    assert type(heartbeat) is NoHeartbeat
    assert heartbeat.fail(ValueError()) is None
    heartbeat.close()
    assert list(tmp_path.iterdir()) == []


def test_closed_nothing_is_left_running(tmp_path: Path) -> None:
    before = threading.active_count()
    heartbeat = start_heartbeat(alone(), 600.0, tmp_path, pytest.fail, pytest.fail)
    assert threading.active_count() == before + 1
    heartbeat.close()
    assert threading.active_count() == before
