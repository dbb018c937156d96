"""`launcher bench` as a user runs it, and its advice for given speeds."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launcher.cli.main import run as run_command
from launcher.commands.recipe.bench import main
from launcher.commands.recipe.bench.advice import (
    Speeds,
    cache_keys,
    choose_workers,
    describe_bottleneck,
    describe_cache,
)
from launcher.recipe.schema import Data
from launcher.train.bottleneck import Tunables
from tests.harness.runs import DIGITS, run

TUNABLES = Tunables(is_cpu=False, final_side=224, cache_keys="data.cache=decoded", feature_keys=None)
# Decoding takes most of the time: with eight threads the input gives 900 images a second.
SPEEDS = Speeds({"read": 9000.0, "decode": 150.0}, {1: 140.0, 2: 270.0, 4: 520.0, 8: 900.0}, 3000.0, 880.0)
SLOW = "input and network slow each other down; slowest stage of the input:"
GIB = 2**30


def test_bench_on_digits_prints_a_row_per_stage_and_keeps_nothing(digits: Path, tmp_path: Path) -> None:
    ended = run("bench", DIGITS, f"data.dir={digits}", "--seconds", "2", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [row[0] for row in rows if row[0] != "input"] == ["read", "decode", "augment", "network", "both"]
    assert rows[3][::2] == ["input", "data.workers=1"]
    assert all(int(row[1].replace(",", "")) > 0 for row in rows)
    assert [line.rpartition("=")[0] for line in lines if line.startswith("recommended")] == [
        "recommended: data.workers"
    ]
    assert any(line.startswith("data.cache=auto ") for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_frozen_part_runs_as_in_training(few_shards: Path, tmp_path: Path) -> None:
    """With several processes: a rank has its part of the batch and of the cores."""
    ops = "[{op: resize, size: [32, 32]}]"
    words = [
        f"augment.train={ops}",
        f"augment.eval={ops}",
        "data.source=null",
        "data.split=null",
        f"data.dir={few_shards}",
    ]
    words += ["backbone.freeze=[conv1]", "train.global_batch=24", "train.micro_batch=4", "strategy.precision=bf16"]
    ended = run("bench", DIGITS, *words, "--seconds", "1", "--processes", "3", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert "cpu, 2 x 4 images a step, precision bf16, frozen part as inference" in ended.out
    assert "features of the frozen part can be kept" in ended.out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--seconds", "0"], "--seconds 0: must be more than 0"),
        (["--seconds", "nan"], "--seconds nan: must be more than 0"),
        (["--processes", "0"], "--processes 0: must be at least 1"),
        (["backbone.name=lenett"], "command line: backbone.name: no such model 'lenett'; did you mean"),
    ],
)
def test_mistake_is_one_line(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["bench", str(DIGITS), *words]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"launcher: {line}")
    assert err.count("\n") == 1


def test_out_of_memory_is_one_line(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(*arguments: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(main, "measure", measure)
    monkeypatch.setattr(main, "log_warnings", lambda: None)
    assert run_command(["bench", str(DIGITS), f"data.dir={digits}"]) == 2
    assert capsys.readouterr().err.startswith(
        "launcher: train.micro_batch: a forward pass of 32 images takes more memory"
    )


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in {"RANK": 0, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    assert run_command(["bench", str(DIGITS)]) == 2
    assert "bench is a single process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("network", "workers"),
    [(100.0, 1), (127.0, 1), (130.0, 2), (400.0, 4), (700.0, 8), (3000.0, 8)],
)
def test_choose_workers_keeps_ahead_of_the_network(network: float, workers: int) -> None:
    assert choose_workers(SPEEDS.by_workers, network) == workers


def test_choose_workers_omits_threads_that_add_little() -> None:
    assert choose_workers({1: 100.0, 2: 190.0, 4: 200.0}, 1000.0) == 2


@pytest.mark.parametrize(
    ("network", "both", "long_side", "line"),
    [
        (
            3000.0,
            880.0,
            500.0,
            "bottleneck: the input (decode); try shards packed with --max-side 320 or data.cache=decoded",
        ),
        (3000.0, 880.0, 200.0, "bottleneck: the input (decode); try data.cache=decoded"),
        (600.0, 590.0, 200.0, "bottleneck: the network"),
        (900.0, 450.0, 200.0, f"{SLOW} decode; try data.cache=decoded"),
    ],
)
def test_describe_bottleneck_names_the_slowest_stage(network: float, both: float, long_side: float, line: str) -> None:
    speeds = Speeds(SPEEDS.stages, SPEEDS.by_workers, network, both)
    assert describe_bottleneck(speeds, long_side, TUNABLES) == line


@pytest.mark.parametrize(
    ("cache", "gib", "free_gib", "keys"),
    [
        ("auto", 3, 10, "data.cache=auto"),
        ("auto", 5.5, 10, "data.cache_gib=6"),
        ("none", 3, 10, "data.cache=decoded"),
        ("device", 11, 10, None),
    ],
)
def test_cache_keys_keep_decoded_images(cache: str, gib: float, free_gib: float, keys: str | None) -> None:
    data = Data(source="digits", cache=cache)  # type: ignore[arg-type]
    assert cache_keys(data, int(gib * GIB), int(free_gib * GIB)) == keys


@pytest.mark.parametrize(
    ("network", "both", "words"),
    [
        (3000.0, 880.0, "helps: training x 3.41"),  # as fast as the network then
        (900.0, 450.0, "helps: training x 2.00"),
        (600.0, 590.0, "does not help much: training x 1.02"),
        (600.0, 610.0, "does not help much: training x 1.00"),
    ],
)
def test_describe_cache_estimates_the_speed_up(network: float, both: float, words: str) -> None:
    speeds = Speeds(SPEEDS.stages, SPEEDS.by_workers, network, both)
    line = describe_cache(speeds, "data.cache=decoded", 3 * GIB, 10 * GIB)
    assert line == f"data.cache=decoded {words} (estimate); decoded images take 3.0 GiB, memory has room for 10.0 GiB"


def test_describe_cache_without_room() -> None:
    line = describe_cache(SPEEDS, None, 11 * GIB, 10 * GIB)
    assert line == "data.cache does not help: decoded images take 11.0 GiB, memory has room for 10.0 GiB"
