"""`data.cache` in real runs: the same training, decoded once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import cast

import pytest

from launcher.data.decode_cache import _new_block
from launcher.data.decoded import shared_folder
from launcher.distributed.strategy import Strategy
from launcher.distributed.world import World
from tests.harness.runs import DIGITS, events, finish, start, summary, train, train_records

COMMON: list[str] = ["train.epochs=3", "log.wandb.mode=disabled", "log.every=10"]


def run(cwd: Path, digits: Path, name: str, *words: str, processes: int = 1) -> Path:
    train(DIGITS, *COMMON, f"data.dir={digits}", f"run.dir={name}", *words, cwd=cwd, processes=processes)
    return cwd / name


def messages(folder: Path) -> list[str]:
    return [str(event["message"]) for event in events(folder, "images_kept")]


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in train_records(folder).values()]


@pytest.mark.parametrize("processes", [1, 2])
def test_cached_images_train_as_those_from_shards_do(tmp_path: Path, digits: Path, processes: int) -> None:
    plain = run(tmp_path, digits, "plain", "data.cache=none", processes=processes)
    kept = run(tmp_path, digits, "kept", "data.cache=decoded", processes=processes)
    assert losses(kept) == losses(plain)
    assert summary(kept)["test"] == summary(plain)["test"]
    assert messages(plain) == []
    assert [re.sub(r"[\d.]+ s$", "1 s", message) for message in messages(kept)] == [
        "images of train: decoded once, 202.1 KiB in memory, 1 s",
        "images of valid: decoded once, 67.5 KiB in memory, 1 s",
    ]
    assert [path for path in shared_folder().iterdir() if path.name.startswith("launcher-")] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.cache_gib=0.00015"], "images of train: not kept decoded, 202.1 KiB are over data.cache_gib, 0.00015"),
        (["train.epochs=33st"], None),
    ],
)
def test_what_has_no_room_or_is_used_once_is_not_kept(
    tmp_path: Path, digits: Path, words: list[str], expected: str | None
) -> None:
    folder = run(tmp_path, digits, "run", *words)
    assert messages(folder)[:1] == ([] if expected is None else [expected])
    assert summary(folder)["status"] == "done"


class Comm:
    """Of a strategy, what the processes say to each other: so many times, all alike."""

    def __init__(self, local_size: int, local_rank: int) -> None:
        self.world = World(rank=0, size=3, local_rank=local_rank, local_size=local_size)
        self.said: list[object] = []

    def gather(self, value: object) -> list[object]:
        self.said.append(value)
        return [value] * 3


def test_a_process_alone_on_its_node_talks_as_often_as_those_that_share_one() -> None:
    """Three processes on two nodes."""
    alone, leader = Comm(1, 0), Comm(2, 0)
    for talk in (alone, leader):
        block_N = _new_block(cast(Strategy, talk), "launcher-test-block", 100)
        assert block_N is not None
        assert len(block_N) == 100
    assert alone.said == leader.said == [True, True]


def test_damaged_images_stop_every_process_with_one_line(tmp_path: Path, digits: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(digits, shards)
    first = sorted(shards.glob("train*.tar"))[0]
    content = bytearray(first.read_bytes())
    workdir = content.index(b"\x89PNG")
    content[workdir : workdir + 8] = bytes(8)
    first.write_bytes(content)
    words: list[str | Path] = [DIGITS, *COMMON, f"data.dir={shards}", "run.dir=run"]
    ended = finish(start(words, tmp_path, processes=2))
    assert ended.code != 0
    assert "image 0: cannot be decoded" in ended.err
    assert "gloo" not in ended.err.lower()
