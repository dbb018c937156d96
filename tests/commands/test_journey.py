"""From images to a network in another program: all commands agree on what the network predicts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

from shards.manifest import read_manifest
from tests.harness.evaluated_run import decode, read_split
from tests.harness.faces import draw_faces
from tests.harness.runs import DIGITS, RECIPES, run, train

QUIET = "log.wandb.mode=disabled"
UPRIGHT = "augment.train=[{op: resize, size: [64, 64]}]"


def launch(*words: str | Path, cwd: Path) -> None:
    ended = run(*words, cwd=cwd)
    assert ended.code == 0, ended.err


def evaluate(path: Path, run: str, *options: str) -> dict[str, Any]:
    """The metrics that `launcher evaluate` writes."""
    launch("evaluate", run, "--output", "evaluated", *options, cwd=path)
    metrics: dict[str, Any] = json.loads((path / "evaluated/figures.json").read_text())["figures"]
    return metrics


def write_images(shards: Path, folder: Path) -> dict[Path, str]:
    """Write the test images as files into one folder; return the class of each."""
    folder.mkdir()
    classes = read_manifest(shards).classes
    truths = {}
    for member in read_split(shards, "test"):
        path = folder / Path(member.name).name
        path.write_bytes(member.content)
        truths[path] = classes[member.label]
    return truths


def predict(path: Path, images: Path) -> dict[Path, str]:
    launch("predict", "run", images.name, "--top", "1", "--output", "predictions.jsonl", cwd=path)
    lines = [json.loads(line) for line in (path / "predictions.jsonl").read_text().splitlines()]
    return {path / line["image"]: line["predictions"][0]["class"] for line in lines}


def predict_by_onnx(path: Path, images: list[Path]) -> dict[Path, str]:
    """Predict as another program would, from nothing but the exported file."""
    launch("export", "run", "--format", "onnx", "--output", "digits.onnx", cwd=path)
    session = onnxruntime.InferenceSession(str(path / "digits.onnx"), providers=["CPUExecutionProvider"])
    metadata = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    images_BCHW = np.stack([preprocess(image, metadata["preprocessing"]) for image in images])
    [probs_BK] = session.run(None, {"images": images_BCHW})
    return {image: metadata["classes"][k] for image, k in zip(images, probs_BK.argmax(1), strict=True)}


def preprocess(image: Path, preprocessing: dict[str, Any]) -> npt.NDArray[np.float32]:
    [resize] = preprocessing["ops"]
    assert resize["op"] == "resize"
    height, width = resize["size"]
    resized = Image.fromarray(decode(image.read_bytes())).resize((width, height), Image.Resampling.BILINEAR)
    pixels_HWC = np.asarray(resized, np.float32) / 255
    mean, std = (np.array(preprocessing[name], np.float32) for name in ("mean", "std"))
    return ((pixels_HWC - mean) / std).transpose(2, 0, 1).astype(np.float32)


def test_evaluate_predict_and_onnx_agree_on_the_digits(digits: Path, tmp_path: Path) -> None:
    """After few epochs some predictions are wrong: the same ones in all three."""
    train(DIGITS, f"data.dir={digits}", "train.epochs=3", "run.dir=run", QUIET, cwd=tmp_path)
    truths = write_images(digits, tmp_path / "images")
    assert len(truths) > 300
    predicted = predict(tmp_path, tmp_path / "images")
    assert predicted.keys() == truths.keys()
    num_right = sum(predicted[image] == truth for image, truth in truths.items())
    assert len(truths) / 2 < num_right < len(truths)
    assert num_right / len(truths) == pytest.approx(evaluate(tmp_path, "run", "--split", "test")["accuracy"])
    assert predict_by_onnx(tmp_path, [*truths]) == predicted


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faces")
    draw_faces(path / "images", 200)
    return path


@pytest.mark.parametrize("flips", [False, True])
def test_upside_down_faces_are_recognized_only_after_training_with_flips(faces: Path, flips: bool) -> None:
    """As published for avatars: without the flips and rotations of the recipe, the classes are confused."""
    run = f"flips-{flips}"
    words = ("data.source=imagefolder:images", "train.epochs=10", "train.global_batch=32", f"run.dir={run}", QUIET)
    train(RECIPES / "avatar_cnn.yaml", *words, *(() if flips else (UPRIGHT,)), cwd=faces)
    assert evaluate(faces, run)["accuracy"] > 0.95
    upside_down = evaluate(faces, run, "--transform", "rotate180")["accuracy"]
    assert upside_down > 0.9 if flips else upside_down < 0.65
