"""A training in lanes that goes from one number of processes to another is the same training."""

from __future__ import annotations

import random
import signal
from pathlib import Path

import pytest

from launcher.recipe.parse import load_recipe
from launcher.recipe.resolve import pack_options
from shards.manifest import read_manifest
from shards.write import pack
from tests.harness.runs import DIGITS, events, start, stop_after, train, train_records

EPOCHS, STEPS_PER_EPOCH, GLOBAL_BATCH = 2, 33, 32
LANES = ["data.images_per_shard=90", "data.lanes=4", "data.shuffle_images=200"]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lanes") / "shards"
    pack("digits", folder, pack_options(load_recipe(DIGITS, LANES).recipe.data))
    assert [shard.num_images for shard in read_manifest(folder).shards_of("train")] == [90] * 11 + [88]
    return folder


def words(shards: Path, *more: str) -> list[str | Path]:
    kept = ["log.samples=true", "log.wandb.mode=disabled", "run.dir=run", "checkpoint.every=5st"]
    return [DIGITS, f"data.dir={shards}", f"train.epochs={EPOCHS}", *LANES, *kept, *more]


def test_a_run_in_lanes_resumes_on_other_processes(tmp_path: Path, shards: Path) -> None:
    """By two, four and one, with other threads and micro batches; against a run of one process that nobody stopped."""
    (tmp_path / "alone").mkdir()
    train(*words(shards), cwd=tmp_path / "alone")
    expected, folder = train_records(tmp_path / "alone" / "run"), tmp_path / "run"

    middle = EPOCHS * STEPS_PER_EPOCH // 2
    # Apart, as a process is asked to stop a step or two before it does.
    stops = [random.randrange(4, middle - 4), random.randrange(middle + 2, 2 * middle - 12)]
    changes = ["--allow-change", "data.workers", "--allow-change", "train.micro_batch"]
    first = words(shards, "data.workers=3")
    second = words(shards, "data.workers=0", "train.micro_batch=4", *changes)
    third = words(shards, "data.workers=1", "train.micro_batch=16", *changes)
    stop_after(start(first, tmp_path, processes=2), folder, stops[0], signal.SIGTERM)
    stop_after(start(second, tmp_path, processes=4), folder, stops[1], signal.SIGTERM)
    train(*third, cwd=tmp_path)

    found = train_records(folder)
    sizes = [record["plan"]["world_size"] for name in ("started", "resumed") for record in events(folder, name)]
    assert sizes == [2, 4, 1], f"stops at {stops}"
    assert sorted(found) == sorted(expected) == list(range(1, EPOCHS * STEPS_PER_EPOCH + 1))
    for step, record in expected.items():
        assert found[step]["samples"] == record["samples"], f"step {step}, stops at {stops}"
        # Sums in another order round otherwise, and the steps after them carry it on: 2.5e-4 seen after 52 steps.
        assert found[step]["loss"] == pytest.approx(record["loss"], rel=1e-2), f"step {step}, stops at {stops}"
    for epoch in range(EPOCHS):
        first_step = epoch * STEPS_PER_EPOCH + 1
        seen = [i for step in range(first_step, first_step + STEPS_PER_EPOCH) for i in found[step]["samples"]]
        assert len(set(seen)) == len(seen) == STEPS_PER_EPOCH * GLOBAL_BATCH
