from __future__ import annotations

import threading
from pathlib import Path

import pytest

from launcher.distributed.comm import Comm
from launcher.distributed.watchdog import start as start_module
from launcher.distributed.watchdog.channel import UdpChannel, open_peer
from launcher.distributed.watchdog.start import start_watchdog
from launcher.distributed.watchdog.thread import NullWatchdog, ThreadWatchdog
from launcher.distributed.world import World
from tests.distributed.threads import run_ranks


def fail(line: str) -> None:
    pytest.fail(line)


def test_without_a_timeout_there_is_no_watchdog(tmp_path: Path) -> None:
    watchdog = start_watchdog(Comm(World()), None, tmp_path, fail, fail)
    assert type(watchdog) is NullWatchdog
    assert watchdog.fail(ValueError()) is None
    watchdog.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_ends_the_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    watchdog = start_watchdog(Comm(World()), 600.0, tmp_path, fail, fail)
    assert threading.active_count() == before + 1
    watchdog.close()
    assert threading.active_count() == before


def start_on_three_ranks(folder: Path) -> tuple[list[type], list[str]]:
    """The type of each rank's watchdog, and what the ranks say."""
    notes: list[str] = []

    def start(comm: Comm) -> type:
        watchdog = start_watchdog(comm, 600.0, folder, fail, notes.append)
        comm.barrier()
        watchdog.close()
        return type(watchdog)

    types = run_ranks(start)
    assert all(isinstance(each, type) for each in types), types
    return types, notes  # type: ignore[return-value]


def test_every_rank_reaches_rank_0(tmp_path: Path) -> None:
    assert start_on_three_ranks(tmp_path) == ([ThreadWatchdog] * 3, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"rank-{rank}.log" for rank in range(3)]


def test_a_rank_that_cannot_reach_rank_0_leaves_all_without_a_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(host: str, port: int, token: str) -> UdpChannel:
        if threading.current_thread().name == "rank 2":
            raise OSError("unknown host")
        return open_peer(host, port, token)

    monkeypatch.setattr(start_module, "open_peer", refuse)
    types, notes = start_on_three_ranks(tmp_path)
    assert types == [NullWatchdog] * 3
    assert len(set(notes)) == 1
    assert notes[0].startswith("no hang detection: rank 2 cannot reach 127.0.0.1:")
    assert notes[0].endswith(" by UDP")


def test_rank_0_that_cannot_listen_leaves_all_without_a_watchdog(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(master: str, is_one_node: bool) -> tuple[UdpChannel, tuple[str, int, str]]:
        raise OSError("no sockets")

    monkeypatch.setattr(start_module, "open_coordinator", refuse)
    types, notes = start_on_three_ranks(tmp_path)
    assert types == [NullWatchdog] * 3
    assert notes == ["no hang detection: rank 0 cannot listen by UDP"] * 3
