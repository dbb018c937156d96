"""The program as a user runs it, on one process: what it leaves behind, and what it says when something is wrong."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import load_file
from sklearn.datasets import load_sample_images

from launcher.recipe.parse import load_recipe
from shards.sources import PackOptions
from shards.write import pack
from tests.harness.runs import (
    DIGITS,
    RECIPES,
    events,
    finish,
    journal,
    run,
    start,
    summary,
    train,
    train_records,
    wait_until,
)

ANIMALS = ("bear", "chimp", "giraffe", "gorilla", "llama", "ostrich", "porcupine", "skunk", "triceratops", "zebra")


def quick(digits: Path, steps: int = 6) -> list[str]:
    return [f"data.dir={digits}", "run.dir=run", f"train.epochs={steps}st", "log.every=1st", "log.wandb.mode=disabled"]


def without_source(recipe: Path) -> str:
    """The recipe for shards that are there already."""
    return re.sub(r"^  (source|split): .*\n", "", recipe.read_text(), flags=re.MULTILINE).replace("data:", "data: {}")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class, 71 to 80 JPEG crops of real photographs in each."""
    root = tmp_path_factory.mktemp("photographs")
    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    random = np.random.default_rng(0)
    for k, name in enumerate(ANIMALS):
        (root / name).mkdir()
        for i in range(71 + k):
            width, height = (int(side) for side in random.integers(64, 160, 2))
            left, top = int(random.integers(0, 640 - width)), int(random.integers(0, 427 - height))
            crop = pictures[(i + k) % 2].crop((left, top, left + width, top + height))
            crop.save(root / name / f"{i:03d}.jpg")
    return root


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_debug_runs_every_recipe_to_the_end(tmp_path: Path, recipe: Path) -> None:
    ended = train(recipe, "--debug", cwd=tmp_path)
    [folder] = (tmp_path / "runs" / recipe.stem).glob("debug-*")
    found = summary(folder)
    assert found["status"] == "done"
    assert found["device"] == "cpu"
    assert found["wandb"]["mode"] == "disabled"
    assert found["test"]["num_images"] > 0
    assert found["valid"]["num_images"] > 0
    assert (folder / "checkpoints" / "best" / "model.safetensors").exists()
    assert "accuracy" in ended.out


def test_job_a_on_a_folder_of_pictures(tmp_path: Path, photographs: Path) -> None:
    recipe = RECIPES / "resnet50_caltech.yaml"
    train(recipe, f"data.source=imagefolder:{photographs}", "backbone.weights=none", "train.epochs=2st", "run.dir=run",
          "log.every=1st", "augment.train.0.size=64", "augment.train.3.size=56", "augment.eval.0.size=64",
          "augment.eval.1.size=56", "log.wandb.mode=disabled", cwd=tmp_path)  # fmt: skip
    found = summary(tmp_path / "run")
    rest = sum(71 + k - 70 for k in range(10))
    assert (found["valid"]["num_images"], found["test"]["num_images"]) == (100, rest)
    assert list(found["test"]["per_class"]) == list(ANIMALS)
    assert [each["support"] for each in found["valid"]["per_class"].values()] == [10] * 10
    plan = events(tmp_path / "run", "started")[0]["plan"]
    assert (plan["num_train"], plan["steps_per_epoch"], plan["wrapped_per_epoch"]) == (600, 19, 8)
    assert found["frozen_sha256"] is not None


def test_the_lock_is_the_recipe_of_an_equal_run(tmp_path: Path, digits: Path) -> None:
    train(DIGITS, *quick(digits), "log.samples=true", cwd=tmp_path)
    lock = tmp_path / "run" / "recipe.lock.yaml"
    assert load_recipe(lock).recipe.train.global_batch == 32
    train(lock, "run.dir=again", cwd=tmp_path)
    first, again = train_records(tmp_path / "run"), train_records(tmp_path / "again")
    assert [(r["samples"], r["loss"]) for r in first.values()] == [(r["samples"], r["loss"]) for r in again.values()]


def test_the_transform_of_the_weights_is_locked_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "shufflenet_v2_x0_5"
    entry = torchvision.models.get_model_weights(name)["DEFAULT"]
    cache = tmp_path / "torch" / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), cache / Path(entry.url).name)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    words = [f"backbone={{name: {name}, weights: DEFAULT}}", "data={source: 'synthetic:3x8x16', dir: shards}",
             "augment={train: [{op: resize, size: [32, 32]}]}", "train={epochs: 2st, global_batch: 4}"]  # fmt: skip
    quiet = ["log.wandb.mode=disabled", "run.dir=run"]
    train(DIGITS, *words, *quiet, cwd=tmp_path)
    locked = load_recipe(tmp_path / "run" / "recipe.lock.yaml").recipe.augment
    assert [op.size for op in locked.eval_ops] == [256, 224]
    assert locked.normalisation((0, 0, 0), (1, 1, 1)) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert "this run is finished" in train(DIGITS, *words, *quiet, cwd=tmp_path).out
    train(DIGITS, *words, "--debug", cwd=tmp_path)
    [folder] = (tmp_path / "runs" / "lenet_digits").glob("debug-*")
    assert load_recipe(folder / "recipe.lock.yaml").recipe.augment == locked


def test_default_folder_is_named_after_the_recipe(tmp_path: Path, digits: Path) -> None:
    words = [word for word in quick(digits) if not word.startswith("run.dir")]
    train(DIGITS, *words, cwd=tmp_path)
    train(DIGITS, *words, cwd=tmp_path)
    folders = list((tmp_path / "runs" / "lenet_digits").iterdir())
    assert [summary(folder)["status"] for folder in folders] == ["done", "done"]


def test_moving_average_is_what_is_evaluated(tmp_path: Path, digits: Path) -> None:
    train(DIGITS, *quick(digits, 12), "optim.ema_decay=0.9", cwd=tmp_path)
    best = tmp_path / "run" / "checkpoints" / "best"
    average, weights = load_file(best / "ema.safetensors"), load_file(best / "model.safetensors")
    assert average.keys() == weights.keys()
    assert not average["fc3.weight"].equal(weights["fc3.weight"])


def test_patience_ends_a_run_that_does_not_improve(tmp_path: Path, digits: Path) -> None:
    train(DIGITS, *quick(digits, 60), "optim.lr=1e-12", "train.evaluate_every=2st", "train.patience=3", cwd=tmp_path)
    found = summary(tmp_path / "run")
    assert (found["status"], found["steps_done"], found["best"]["step"]) == ("early_stopped", 8, 2)
    evaluations = [r for r in journal(tmp_path / "run") if r["kind"] == "eval" and r["split"] == "valid"]
    assert [record["step"] for record in evaluations] == [2, 4, 6, 8]


def test_mixed_images_train(tmp_path: Path, digits: Path) -> None:
    words = quick(digits, 165)  # five epochs
    train(DIGITS, *words, "augment.mixup={alpha: 0.2}", "augment.cutmix={alpha: 1}", cwd=tmp_path)
    assert summary(tmp_path / "run")["test"]["accuracy"] > 0.8
    assert load_recipe(tmp_path / "run" / "recipe.lock.yaml").recipe.augment.mix_p == 1


def test_mixed_images_cannot_be_odd(tmp_path: Path, digits: Path) -> None:
    ended = run(DIGITS, *quick(digits), "augment.mixup={alpha: 1}", "train.global_batch=33", cwd=tmp_path)
    what = "gives each rank 33 images, but augment.mixup and augment.cutmix mix images in pairs; try 32"
    assert (ended.code, ended.err) == (2, f"launcher: command line: train.global_batch: {what}\n")


def test_one_logit_trains(tmp_path: Path) -> None:
    words = ["data.source=synthetic:2x30x32", "data.split=null", "loss={name: bce}", "train.global_batch=8"]
    train(DIGITS, *words, "run.dir=run", "train.epochs=3", "log.wandb.mode=disabled", cwd=tmp_path)
    weights = load_file(tmp_path / "run" / "checkpoints" / "best" / "model.safetensors")
    assert weights["fc3.weight"].shape == (1, 84)
    assert summary(tmp_path / "run")["test"]["num_images"] > 0


def test_data_without_valid_and_test_trains(tmp_path: Path) -> None:
    ended = train(DIGITS, "data.split={train: rest}", "train.epochs=3st", "run.dir=run", "log.wandb.mode=disabled",
                  cwd=tmp_path)  # fmt: skip
    assert "note: no valid split" in ended.out
    found = summary(tmp_path / "run")
    assert found["valid"] is None
    assert "test" not in found
    assert (tmp_path / "run" / "checkpoints" / "best").resolve().name == "step-00000003"


def test_tars_of_gnu_tar_are_trained_on(tmp_path: Path) -> None:
    source = tmp_path / "files" / "deep.er"
    source.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(48):
        image = random.integers(0, 255, (40, 36, 3), dtype=np.uint8)
        Image.fromarray(image).save(source / f"photo-{i:02d}.jpg")
        (source / f"photo-{i:02d}.json").write_text(json.dumps({"label": "cat" if i % 2 else "dog"}))
    (tmp_path / "tars").mkdir()
    tar = ["tar", "cf", str(tmp_path / "tars" / "train-0.tar"), "--sort=name", "deep.er"]
    subprocess.run(tar, cwd=source.parent, check=True)
    index = [sys.executable, "-m", "shards", "index", "tars"]
    subprocess.run(index, cwd=tmp_path, check=True, capture_output=True)
    recipe = tmp_path / "foreign.yaml"
    recipe.write_text(without_source(DIGITS))
    words = ["data.dir=tars", "train.epochs=1", "train.global_batch=16", "run.dir=run", "log.wandb.mode=disabled"]
    train(recipe, *words, cwd=tmp_path)
    assert summary(tmp_path / "run")["steps_done"] == 3
    assert events(tmp_path / "run", "started")[0]["plan"]["num_classes"] == 2


def test_a_damaged_picture_is_one_line(tmp_path: Path, digits: Path) -> None:
    pack("synthetic:2x20x32", tmp_path / "two", PackOptions())
    tar = tmp_path / "two" / "train-00000.tar"
    content = bytearray(tar.read_bytes())
    start = content.find(b"\xff\xd8\xff")
    content[start : start + 64] = bytes(64)
    tar.write_bytes(content)
    ended = run(DIGITS, "data.source=synthetic:2x20x32", "data.dir=two", "data.split=null", "train.global_batch=8",
                "run.dir=run", "log.wandb.mode=disabled", cwd=tmp_path)  # fmt: skip
    assert ended.code == 2
    assert ended.err.startswith("launcher: two/train-00000.tar: image 0: cannot be decoded")
    assert len(ended.err.splitlines()) == 1
    assert summary(tmp_path / "run")["status"] == "failed"


def test_a_loss_that_is_not_finite_is_one_line(tmp_path: Path, digits: Path) -> None:
    ended = run(DIGITS, *quick(digits, 40), "optim={name: sgd, lr: 1e12}", "schedule={name: constant}", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err.startswith("launcher: loss is nan at step ")
    assert summary(tmp_path / "run")["status"] == "failed"


def test_a_loss_that_is_not_finite_is_never_saved(tmp_path: Path, digits: Path) -> None:
    words = [word for word in quick(digits, 80) if not word.startswith("log.every")]
    overrides = ["optim={name: sgd, lr: 1e12}", "schedule={name: constant}", "log.every=1000st", "checkpoint.every=5st"]
    ended = run(DIGITS, *words, *overrides, cwd=tmp_path)
    assert ended.code == 2
    assert ended.err.startswith("launcher: loss is nan at step ")
    assert list((tmp_path / "run" / "checkpoints").glob("step-*")) == []


def test_a_gpu_that_is_not_there_is_one_line(tmp_path: Path, digits: Path) -> None:
    ended = run(DIGITS, *quick(digits), "strategy.device=cuda", cwd=tmp_path)
    assert ended.code == 2
    assert ended.err == (
        "launcher: 1 processes on this node but 0 GPUs: start with --num_processes 1, or set strategy.device=cpu\n"
    )


def test_packing_can_be_stopped_and_started_again(tmp_path: Path) -> None:
    words = [
        "data.source=synthetic:10x200",
        "data.split=null",
        "run.dir=run",
        "log.wandb.mode=disabled",
        "train.epochs=2st",
    ]
    process = start([DIGITS, *words], tmp_path)
    wait_until(lambda: any(tmp_path.glob("data/*.partial/*.tar")), process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert ended.code == 75
    assert "launcher: stopped while packing; the same command packs again\n" in ended.err
    assert not list(tmp_path.glob("data/*/manifest.json"))
    train(DIGITS, *words, "augment.train.0.size=[32,32]", cwd=tmp_path)


def test_debug_is_one_process(tmp_path: Path) -> None:
    ended = run(DIGITS, "--debug", cwd=tmp_path, processes=2)
    assert ended.codes == (2, 2)
    assert f"launcher: --debug is a single process, not 2: python -m launcher {DIGITS} --debug\n" in ended.err


def test_bf16_trains(tmp_path: Path, digits: Path) -> None:
    train(DIGITS, *quick(digits, 80), "strategy.precision=bf16", cwd=tmp_path)
    records = train_records(tmp_path / "run")
    assert records[80]["loss"] < 0.7 * records[1]["loss"]


def test_debug_leaves_a_run_in_its_folder_alone(tmp_path: Path, digits: Path) -> None:
    words = quick(digits)
    train(DIGITS, *words, cwd=tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    ended = run(DIGITS, *words, "--debug", cwd=tmp_path)
    assert (ended.code, ended.err) == (
        2,
        "launcher: run: holds a run, which --debug would replace; leave run.dir out, or name another\n",
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_change_that_the_run_cannot_take_is_not_locked(tmp_path: Path, digits: Path) -> None:
    words = quick(digits)
    train(DIGITS, *words, cwd=tmp_path)
    locked = (tmp_path / "run" / "recipe.lock.yaml").read_bytes()
    ended = run(DIGITS, *words, "optim.name=sgd", "--allow-change", "optim", cwd=tmp_path)
    assert ended.code == 2
    assert "its optimizer is not the recipe's" in ended.err
    assert (tmp_path / "run" / "recipe.lock.yaml").read_bytes() == locked
