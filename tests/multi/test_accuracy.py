"""The main job, whole, as users start it on one and on two processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness.runs import DIGITS, events, journal, summary, train


@pytest.fixture(scope="module")
def cwd(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder in which the recipe was trained alone, by torchrun and by accelerate launch."""
    cwd = tmp_path_factory.mktemp("accuracy")
    train(DIGITS, f"data.dir={digits}", "run.dir=alone", cwd=cwd)
    train(DIGITS, f"data.dir={digits}", "run.dir=torchrun", cwd=cwd, processes=2)
    train(DIGITS, f"data.dir={digits}", "run.dir=accelerate", cwd=cwd, processes=2, launcher="accelerate")
    return cwd


def test_digits_are_learned(cwd: Path) -> None:
    alone = summary(cwd / "alone")
    assert alone["status"] == "done"
    assert alone["test"]["accuracy"] >= 0.97
    assert alone["epochs_done"] == 30


@pytest.mark.parametrize("run", ["torchrun", "accelerate"])
def test_two_processes_reach_the_same_accuracy(cwd: Path, run: str) -> None:
    alone, two = summary(cwd / "alone"), summary(cwd / run)
    assert two["world_size"] == 2
    for split in ("valid", "test"):
        assert two[split]["accuracy"] == pytest.approx(alone[split]["accuracy"], abs=0.01)


@pytest.mark.parametrize("run", ["alone", "torchrun", "accelerate"])
def test_every_image_is_evaluated_once(cwd: Path, digits: Path, run: str) -> None:
    manifest = json.loads((digits / "manifest.json").read_text())
    for split in ("valid", "test"):
        counts = manifest["class_counts"][split]
        metrics = summary(cwd / run)[split]
        assert metrics["num_images"] == sum(counts)
        assert [metrics["per_class"][name]["support"] for name in manifest["classes"]] == counts
    evaluated = [r["num_images"] for r in journal(cwd / run) if r["kind"] == "eval" and r["split"] == "valid"]
    assert evaluated == [sum(manifest["class_counts"]["valid"])] * 30


@pytest.mark.parametrize("run", ["alone", "torchrun", "accelerate"])
def test_each_training_is_one_wandb_run(cwd: Path, run: str) -> None:
    wandb = summary(cwd / run)["wandb"]
    assert wandb["mode"] == "offline"
    found = sorted((cwd / run / "wandb").glob("offline-run-*"))
    assert len(found) == 1
    assert found[0].name.endswith(wandb["id"])
    assert events(cwd / run, "wandb_failed") == []


@pytest.mark.parametrize("run", ["alone", "torchrun", "accelerate"])
def test_every_process_tells_what_its_input_cost(cwd: Path, run: str) -> None:
    found, records = summary(cwd / run), events(cwd / run, "input")
    assert len(records) == 30
    for record in records:
        assert [rank["train_s"] > rank["augment_s"] > 0 for rank in record["ranks"]] == [True] * found["world_size"]
    assert found["input"]["sentence"] == records[-1]["sentence"]


def test_the_run_folder_is_whole(cwd: Path) -> None:
    run = cwd / "torchrun"
    names = {path.name for path in run.iterdir()}
    assert {"recipe.lock.yaml", "journal.jsonl", "summary.json", "checkpoints", "pictures", "logs"} <= names
    assert {path.name for path in (run / "logs").iterdir()} == {"rank-0.log", "rank-1.log"}
    assert (run / "pictures" / "augmented.png").stat().st_size > 1000
    best = summary(run)["best"]
    assert (run / "checkpoints" / "best").resolve().name == f"step-{best['step']:08d}"
    assert (run / "checkpoints" / "last").resolve().name == "step-00000990"
