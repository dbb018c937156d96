"""`data.cache` in real runs: the same training, decoded once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from launcher.data.decoded import shared_folder
from tests.runs import DIGITS, events, summary, train, train_records

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
        "images of train: decoded once, 269.5 KiB in memory, 1 s",
        "images of valid: decoded once, 90.0 KiB in memory, 1 s",
    ]
    assert [path for path in shared_folder().iterdir() if path.name.startswith("launcher-")] == []


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["data.cache_gib=0.0002"], "images of train: not kept decoded, 269.5 KiB are over data.cache_gib, 0.0002"),
        (["train.epochs=33st"], None),
    ],
)
def test_what_has_no_room_or_is_used_once_is_not_kept(
    tmp_path: Path, digits: Path, words: list[str], expected: str | None
) -> None:
    folder = run(tmp_path, digits, "run", *words)
    assert messages(folder)[:1] == ([] if expected is None else [expected])
    assert summary(folder)["status"] == "done"
