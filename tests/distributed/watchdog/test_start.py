from __future__ import annotations

import threading
from pathlib import Path

import pytest

from launcher.distributed.watchdog.start import start_heartbeat
from launcher.distributed.watchdog.thread import NoHeartbeat
from tests.harness.small_run import alone


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
