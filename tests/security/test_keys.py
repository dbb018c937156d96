"""Credentials: read only from files that nobody else can write, and written nowhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.run.credentials import has_wandb_credentials
from tests.run.wandb_program import KEY, result_of, spawn
from tests.run.wandb_server import WandbServer

LINE = f"machine api.wandb.ai login user password {KEY}\n"


@pytest.mark.parametrize(
    ("mode", "is_trusted"),
    [(0o600, True), (0o400, True), (0o644, True), (0o620, False), (0o602, False), (0o666, False)],
)
def test_file_that_others_may_write_to_is_not_trusted(tmp_path: Path, mode: int, is_trusted: bool) -> None:
    path = tmp_path / "netrc"
    path.write_text(LINE)
    path.chmod(mode)
    assert has_wandb_credentials({"NETRC": str(path)}) == is_trusted
    assert (path.read_text(), path.stat().st_mode & 0o777) == (LINE, mode)


def test_key_is_written_nowhere(tmp_path: Path) -> None:
    with WandbServer() as server:
        online = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
        result = result_of(spawn(tmp_path / "run", "online", "log(1, 2); wait_for_mirror(); end()", **online))
        assert (result["mode"], result["failures"]) == ("online", [])
        (run,) = server.runs.values()
        assert KEY not in str(run)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 2
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []
