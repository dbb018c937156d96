"""The lock of a run folder: one process holds it, it ends with that process, and looking on does not take it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.errors import RunError
from launcher.run.lock_file import claim, is_running


def test_a_second_claim_is_refused_until_the_first_is_released(tmp_path: Path) -> None:
    in_use = claim(tmp_path)
    with pytest.raises(RunError) as error:
        claim(tmp_path, "--folder")
    assert str(error.value) == (f"{tmp_path}: another process is running it; wait for it, or choose another --folder")
    os.close(in_use)
    os.close(claim(tmp_path))


def test_a_lock_of_another_process_ends_with_it(tmp_path: Path) -> None:
    path = str(tmp_path)
    code = f"import time; from launcher.run.lock_file import *; claim(Path({path!r})); print('held', flush=True)"
    code += "; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_running(tmp_path, has_ended=False)
        holder.kill()
    assert not is_running(tmp_path, has_ended=False)


def test_looking_at_a_finished_run_never_takes_its_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.close(claim(tmp_path))
    monkeypatch.setattr("launcher.run.lock_file.fcntl.flock", lambda *_: pytest.fail("asked for the lock"))
    assert not is_running(tmp_path, has_ended=True)
    (tmp_path / "elsewhere").mkdir()
    assert not is_running(tmp_path / "elsewhere", has_ended=False)


def test_a_disk_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("launcher.run.lock_file.fcntl.flock", refuse)
    with pytest.raises(RunError, match=r"cannot be locked \(No locks available\); choose a run.dir on another disk$"):
        claim(tmp_path)
    assert not is_running(tmp_path, has_ended=False)


@pytest.mark.parametrize(
    "name", [".in-use", "journal.jsonl", "logs/rank-0.log", "checkpoints/step-00000001", "pictures"]
)
def test_a_link_in_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    with pytest.raises(RunError) as error:
        claim(tmp_path / "run")
    advice = "is a link, and a run writes through none; remove it, or choose another run.dir"
    assert str(error.value) == f"{link}: {advice}"


def test_links_to_a_checkpoint_beside_them_are_allowed(tmp_path: Path) -> None:
    (tmp_path / "checkpoints/step-00000001").mkdir(parents=True)
    for name in ("last", "best"):
        (tmp_path / "checkpoints" / name).symlink_to("step-00000001")
    os.close(claim(tmp_path))
