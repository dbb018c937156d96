"""Runs killed at any time and at every change they make to the disk: six of either; see tests/harness/kills.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness.runs import ROOT, environment


def kill(*words: str | Path, cwd: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.harness.kills", *map(str, words)]
    path = {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    ended = subprocess.run(command, cwd=cwd, env={**environment(), **path}, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.mark.timeout(900)
def test_a_run_killed_at_any_time_is_resumed_by_any_number_of_processes(tmp_path: Path, few_shards: Path) -> None:
    assert kill("random", few_shards, "--kills", "6", cwd=tmp_path)["kills"] == 6


@pytest.mark.timeout(900)
def test_a_run_killed_before_a_change_to_the_disk_resumes(tmp_path: Path, few_shards: Path) -> None:
    found = kill("boundaries", few_shards, "--every", "15", cwd=tmp_path)
    assert found["boundaries"] > 100
    assert found["kills"] >= 6
