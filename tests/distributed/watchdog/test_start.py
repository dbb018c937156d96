from __future__ import annotations

import threading
from pathlib import Path

import pytest

from launcher.distributed.watchdog.start import start_watchdog
from launcher.distributed.watchdog.thread import NullWatchdog
from tests.harness.small_run import alone


def test_without_a_timeout_the_watchdog_does_nothing(tmp_path: Path) -> None:
    watchdog = start_watchdog(alone().comm, None, tmp_path, pytest.fail, pytest.fail)
    assert type(watchdog) is NullWatchdog
    assert watchdog.fail(ValueError()) is None
    watchdog.close()
    assert list(tmp_path.iterdir()) == []


def test_closed_nothing_is_left_running(tmp_path: Path) -> None:
    before = threading.active_count()
    watchdog = start_watchdog(alone().comm, 600.0, tmp_path, pytest.fail, pytest.fail)
    assert threading.active_count() == before + 1
    watchdog.close()
    assert threading.active_count() == before
