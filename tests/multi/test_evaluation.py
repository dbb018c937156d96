"""`launcher evaluate` on one and on two processes: the same figures, the same predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from launcher.cli.main import run
from tests.harness.evaluated_run import NUM_TEST, train_lenet
from tests.harness.runs import run as start


def test_two_processes_evaluate_as_one(tmp_path: Path, few_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nine pictures: one process has five of them, the other four and padding."""
    train_lenet(tmp_path, few_shards)
    monkeypatch.chdir(tmp_path)
    assert run(["evaluate", "run", "--output", "of-1"]) == 0
    ended = start("evaluate", "run", "--output", "of-2", cwd=tmp_path, processes=2)
    assert ended.code == 0, ended.err
    contents = [json.loads((tmp_path / f"of-{n}/figures.json").read_text()) for n in (1, 2)]
    assert [content["world_size"] for content in contents] == [1, 2]
    assert contents[0]["figures"] == contents[1]["figures"]
    assert contents[0]["figures"]["num_images"] == NUM_TEST
    with np.load(tmp_path / "of-1/predictions.npz") as one, np.load(tmp_path / "of-2/predictions.npz") as two:
        assert sorted(one) == sorted(two)
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
    for name in ("confusion.csv", "confusion.png", "per_class.png", "mistakes.png"):
        assert (tmp_path / "of-1" / name).read_bytes() == (tmp_path / "of-2" / name).read_bytes(), name
    assert ended.out.count("calibration error") == 1
