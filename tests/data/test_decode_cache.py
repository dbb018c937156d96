"""`data.cache` in real runs: the same training from images that are decoded once."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import cast

import pytest

from launcher.data.decode_cache import _new_block
from launcher.data.shared_memory import shared_folder
from launcher.distributed.comm import Comm
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
    cached = run(tmp_path, digits, "cached", "data.cache=decoded", processes=processes)
    assert losses(cached) == losses(plain)
    assert summary(cached)["test"] == summary(plain)["test"]
    assert messages(plain) == []
    assert [re.sub(r"[\d.]+ s$", "1 s", message) for message in messages(cached)] == [
        "images of train: decoded once, 202.1 KiB in memory, 1 s",
        "images of valid: decoded once, 67.5 KiB in memory, 1 s",
    ]
    assert [path for path in shared_folder().iterdir() if path.name.startswith("launcher-")] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.cache_gib=0.00015"], "images of train: not cached, 202.1 KiB are more than data.cache_gib=0.00015"),
        (["train.epochs=33st"], None),
    ],
)
def test_a_split_without_room_or_used_once_is_not_cached(
    tmp_path: Path, digits: Path, words: list[str], expected: str | None
) -> None:
    folder = run(tmp_path, digits, "run", *words)
    assert messages(folder)[:1] == ([] if expected is None else [expected])
    assert summary(folder)["status"] == "done"


class RecordedComm:
    """A Comm of three ranks that all gather the same values."""

    def __init__(self, local_size: int, local_rank: int) -> None:
        self.world = World(rank=0, size=3, local_rank=local_rank, local_size=local_size)
        self.gathered: list[object] = []

    def all_gather_object(self, value: object) -> list[object]:
        self.gathered.append(value)
        return [value] * 3


def test_a_rank_alone_on_its_node_gathers_as_often_as_those_that_share_one() -> None:
    """Three ranks on two nodes."""
    alone, leader = RecordedComm(1, 0), RecordedComm(2, 0)
    for comm in (alone, leader):
        block_N = _new_block(cast(Comm, comm), "launcher-test-block", 100)
        assert block_N is not None
        assert len(block_N) == 100
    assert alone.gathered == leader.gathered == [True, True]


def test_a_damaged_image_ends_every_rank_with_one_line(tmp_path: Path, digits: Path) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(digits, shards)
    first = sorted(shards.glob("train*.tar"))[0]
    content = bytearray(first.read_bytes())
    place = content.index(b"\x89PNG")
    content[place : place + 8] = bytes(8)
    first.write_bytes(content)
    words: list[str | Path] = [DIGITS, *COMMON, f"data.dir={shards}", "run.dir=run"]
    ended = finish(start(words, tmp_path, processes=2))
    assert ended.code != 0
    assert "image 0: cannot be decoded" in ended.err
    assert "gloo" not in ended.err.lower()
