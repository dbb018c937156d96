"""What a user sees when it is one of several processes that cannot continue."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from shards.sources import PackOptions
from shards.write import pack
from tests.harness.runs import DIGITS, environment, events, finish, free_port, run, start, train_records, wait_until


def test_a_picture_that_only_the_second_rank_meets_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    random = np.random.default_rng(0)
    for name in ("ants", "bees"):
        (folder / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(random.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / name / f"{i:02d}.png")
    options = PackOptions(split={"train": "rest"})
    pack(f"imagefolder:{folder}", tmp_path / "shards", options)
    tar = tmp_path / "shards" / "train-00000.tar"
    content = bytearray(tar.read_bytes())
    start_at = [i for i in range(len(content)) if content.startswith(b"\x89PNG", i)][-1]
    content[start_at : start_at + 32] = bytes(32)
    tar.write_bytes(content)
    words = [f"data.source=imagefolder:{folder}", "data.split={train: rest}", "data.dir=shards", "run.dir=run"]
    ended = run(DIGITS, *words, "train.global_batch=40", "log.wandb.mode=disabled", cwd=tmp_path, processes=2)
    assert ended.code != 0
    assert "launcher: shards/train-00000.tar: image 39: cannot be decoded" in ended.err
    assert 'Traceback (most recent call last):\n  File "' + str(DIGITS.parent.parent / "launcher") not in ended.err


def test_a_killed_rank_does_not_leave_the_other_waiting(tmp_path: Path, digits: Path) -> None:
    process = start([DIGITS, f"data.dir={digits}", "run.dir=run", "log.wandb.mode=disabled"], tmp_path, processes=2)
    wait_until(lambda: bool(train_records(tmp_path / "run")), process)
    os.kill(process.pids[1], signal.SIGKILL)
    ended = finish(process)
    assert ended.code != 0
    [line] = [line for line in ended.err.splitlines() if line.startswith("launcher: ")]
    assert re.match(r"launcher: rank 1 \(.+\) is gone, last seen in \w+ of step \d+; see logs/rank-1\.log", line)
    assert train_records(tmp_path / "run").keys() < set(range(1171))
    again = start([DIGITS, f"data.dir={digits}", "run.dir=run", "log.wandb.mode=disabled"], tmp_path)
    wait_until(lambda: bool(events(tmp_path / "run", "resumed")), again)
    again.kill()
    finish(again)


def test_ranks_with_other_shards_are_refused(tmp_path: Path, digits: Path) -> None:
    """A relative data.dir seen from another folder: as on a node whose local disk holds something else."""
    pack("synthetic:10x20x32", tmp_path / "other", PackOptions())
    recipe = tmp_path / "recipe.yaml"
    text = (
        DIGITS.read_text()
        .replace("  source: digits\n", "")
        .replace("  split: {train: 0.6, valid: 0.2, test: rest}\n", "")
    )
    recipe.write_text(text.replace("data:\n", "data:\n  dir: shards\n"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "shards").symlink_to(digits)
    (tmp_path / "b" / "shards").symlink_to(tmp_path / "other")
    script = tmp_path / "start.sh"
    folder = "$([ $RANK = 0 ] && echo a || echo b)"
    script.write_text(f"#!/bin/sh\ncd {folder} && exec {sys.executable} -m launcher {recipe} run.dir={tmp_path}/run\n")
    script.chmod(0o755)
    port = ["--master-port", str(free_port())]
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", *port, "--no-python", str(script)]
    ended = subprocess.run(words, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=120)
    assert "launcher: rank 1 has other shards, recipe or number of images than rank 0" in ended.stderr
