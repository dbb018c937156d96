"""A network with a frozen part on two processes."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from launcher.data.features.format import open_features
from tests.harness.runs import Record, finish, run, start, summary, train, train_records, wait_until
from tests.harness.workdir import FLIPS, STAGES, TEXT

Words = list[str | Path]

SPLITS = {"train": 42, "valid": 9, "test": 9}


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory, few_shards: Path) -> Path:
    """Where the recipe is; weights as if they were pretrained."""
    cwd = tmp_path_factory.mktemp("frozen")
    (cwd / "small.yaml").write_text(TEXT)
    (cwd / "shards").symlink_to(few_shards)
    torch.manual_seed(0)
    torch.save(torchvision.models.shufflenet_v2_x0_5().state_dict(), cwd / "weights.pth")
    return cwd


def losses(folder: Path) -> list[float]:
    return [record["loss"] for record in train_records(folder).values()]


def kept(cwd: Path) -> dict[str, Record]:
    """Folder -> what the features in it were made of."""
    return {path.parent.name: json.loads(path.read_text()) for path in (cwd / "data/features").glob("*/features.json")}


def test_frozen_on_two_processes_is_frozen_on_one(cwd: Path, tmp_path: Path) -> None:
    words: Words = [
        cwd / "small.yaml",
        f"backbone.weights={cwd / 'weights.pth'}",
        f"data.dir={cwd / 'shards'}",
        FLIPS,
        "augment.views=2",
    ]
    for name, processes in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        train(*words, cwd=tmp_path / name, processes=processes)
    one, two = tmp_path / "one", tmp_path / "two"
    assert losses(two / "run") == pytest.approx(losses(one / "run"), rel=1e-4)
    assert len(losses(two / "run")) == 6
    for split in ("valid", "test"):
        metrics = [summary(folder / "run")[split] for folder in (one, two)]
        assert [figure["num_images"] for figure in metrics] == [9, 9]
        assert metrics[1]["loss"] == pytest.approx(metrics[0]["loss"], rel=1e-4)
    found, expected = kept(two), kept(one)
    assert found.keys() == expected.keys(), "the features of one process are found by two, and the reverse"
    assert [facts["layout"]["num_parts"] for facts in found.values()] == [2] * 4
    assert not list((two / "data/features").glob(".*"))
    for key, facts in found.items():
        features, same = open_features(two / "data/features", key), open_features(one / "data/features", key)
        assert features is not None
        assert same is not None
        ids = np.arange(SPLITS[facts["split"]])
        ([mine], labels), ([theirs], expected_labels) = features.read(ids), same.read(ids)
        assert labels.tolist() == expected_labels.tolist()
        assert np.allclose(mine.copy().view(np.float32), theirs.copy().view(np.float32), rtol=1e-3, atol=1e-5)


def test_stages_exchange_each_gradient_once(cwd: Path, tmp_path: Path) -> None:
    """At the second of two micro batches, whichever stage has wrapped the network."""
    words: Words = [
        cwd / "small.yaml",
        f"data.dir={cwd / 'shards'}",
        "backbone={name: lenet}",
        STAGES,
        "train.epochs=3",
        "train.micro_batch=3",
    ]
    for name, processes in (("one", 1), ("two", 2)):
        train(*words, f"run.dir={name}", cwd=tmp_path, processes=processes)
    assert len(losses(tmp_path / "two")) == 9
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)


@pytest.mark.parametrize(
    ("name", "freeze", "size"),
    [("googlenet", "backbone", 64), ("densenet121", "{except_last: 2}", 32)],
)
def test_nothing_that_trains_is_left_unused(cwd: Path, tmp_path: Path, name: str, freeze: str, size: int) -> None:
    """DDP would wait for gradients that never come, in the second step."""
    sizes = [f"augment.{split}=[{{op: resize, size: [{size}, {size}]}}]" for split in ("train", "eval")]
    words = [f"data.dir={cwd / 'shards'}", f"backbone={{name: {name}, freeze: {freeze}}}", "train.epochs=2st", *sizes]
    train(cwd / "small.yaml", *words, "train.global_batch=8", cwd=tmp_path, processes=2)
    found = summary(tmp_path / "run")
    assert (found["steps_done"], found["valid"]["num_images"]) == (2, 9)
    assert found["frozen_sha256"] is not None


def test_two_processes_stop_together_while_computing(tmp_path: Path, digits: Path, cwd: Path) -> None:
    words: Words = [
        cwd / "small.yaml",
        f"data.dir={digits}",
        "backbone.name=lenet",
        "train.eval_batch=1",
        "data.workers=0",
    ]
    process = start(words, tmp_path, processes=2)
    wait_until(lambda: any(tmp_path.glob("data/features/.*/part-0001.bin")), process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code != 0
    assert "stopped while computing features; the same command computes them again" in ended.err
    assert summary(tmp_path / "run")["status"] == "preempted"
    assert not list(tmp_path.glob("data/features/.*"))


def test_a_picture_that_only_the_second_rank_meets_ends_both(tmp_path: Path, few_shards: Path, cwd: Path) -> None:
    shutil.copytree(few_shards, tmp_path / "shards")
    tar = sorted((tmp_path / "shards").glob("train-*.tar"))[-1]
    content = bytearray(tar.read_bytes())
    start_at = content.rfind(b"\xff\xd8\xff")
    content[start_at : start_at + 64] = bytes(64)
    tar.write_bytes(content)
    ended = run(cwd / "small.yaml", "backbone.name=lenet", cwd=tmp_path, processes=2)
    assert ended.code != 0
    assert f"launcher: shards/{tar.name}: image " in ended.err
    assert "cannot be decoded" in ended.err
    assert len(list(tmp_path.glob("data/features/*/features.json"))) == 2, "valid and test"
    assert not list(tmp_path.glob("data/features/.*"))
