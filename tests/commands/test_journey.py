"""From pictures to a network in another program: the verbs agree on what a network can do, and on what it cannot."""

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
from tests.harness.runs import DIGITS, RECIPES, run_warm, train

QUIET = "log.wandb.mode=disabled"
UPRIGHT = "augment.train=[{op: resize, size: [64, 64]}]"


def launch(*words: str | Path, cwd: Path) -> None:
    ended = run_warm([{}], words, cwd)
    assert ended.code == 0, ended.err


def judge(path: Path, run: str, *options: str) -> dict[str, Any]:
    """What `launcher evaluate` leaves for programs."""
    launch("evaluate", run, "--output", "judged", *options, cwd=path)
    metrics: dict[str, Any] = json.loads((path / "judged/figures.json").read_text())["figures"]
    return metrics


def write_pictures(shards: Path, folder: Path) -> dict[Path, str]:
    """The test pictures as files beside each other; what is on each."""
    folder.mkdir()
    classes = read_manifest(shards).classes
    truths = {}
    for member in read_split(shards, "test"):
        path = folder / Path(member.name).name
        path.write_bytes(member.content)
        truths[path] = classes[member.label]
    return truths


def say_by_predict(path: Path, pictures: Path) -> dict[Path, str]:
    launch("predict", "run", pictures.name, "--top", "1", "--output", "said.jsonl", cwd=path)
    lines = [json.loads(line) for line in (path / "said.jsonl").read_text().splitlines()]
    return {path / line["image"]: line["predictions"][0]["class"] for line in lines}


def say_by_onnx(path: Path, pictures: list[Path]) -> dict[Path, str]:
    """As another program would: nothing but the file and what is written in it."""
    launch("export", "run", "--format", "onnx", "--output", "digits.onnx", cwd=path)
    session = onnxruntime.InferenceSession(str(path / "digits.onnx"), providers=["CPUExecutionProvider"])
    facts = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
    images_BCHW = np.stack([preprocess(picture, facts["preprocessing"]) for picture in pictures])
    [probs_BK] = session.run(None, {"images": images_BCHW})
    return {picture: facts["classes"][k] for picture, k in zip(pictures, probs_BK.argmax(1), strict=True)}


def preprocess(picture: Path, how: dict[str, Any]) -> npt.NDArray[np.float32]:
    [resize] = how["ops"]
    assert resize["op"] == "resize"
    height, width = resize["size"]
    resized = Image.fromarray(decode(picture.read_bytes())).resize((width, height), Image.Resampling.BILINEAR)
    pixels_HWC = np.asarray(resized, np.float32) / 255
    mean, std = np.array(how["mean"], np.float32), np.array(how["std"], np.float32)
    return ((pixels_HWC - mean) / std).transpose(2, 0, 1).astype(np.float32)


def test_evaluate_predict_and_onnx_agree_on_the_digits(digits: Path, tmp_path: Path) -> None:
    """Few epochs, so that some digits are named wrongly: by all three alike."""
    train(DIGITS, f"data.dir={digits}", "train.epochs=3", "run.dir=run", QUIET, cwd=tmp_path)
    truths = write_pictures(digits, tmp_path / "pictures")
    assert len(truths) > 300
    said = say_by_predict(tmp_path, tmp_path / "pictures")
    assert said.keys() == truths.keys()
    num_right = sum(said[picture] == truth for picture, truth in truths.items())
    assert len(truths) / 2 < num_right < len(truths)
    assert num_right / len(truths) == pytest.approx(judge(tmp_path, "run", "--split", "test")["top1_frac"])
    assert say_by_onnx(tmp_path, [*truths]) == said


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("faces")
    draw_faces(path / "pictures", 200)
    return path


@pytest.mark.parametrize("flips", [False, True])
def test_upside_down_faces_are_read_by_a_network_that_has_seen_them(faces: Path, flips: bool) -> None:
    """As published for avatars: without the flips and turns of the recipe, each class is taken for the other."""
    run = f"flips-{flips}"
    words = ("data.source=imagefolder:pictures", "train.epochs=10", "train.global_batch=32", f"run.dir={run}", QUIET)
    train(RECIPES / "avatar_cnn.yaml", *words, *(() if flips else (UPRIGHT,)), cwd=faces)
    assert judge(faces, run)["top1_frac"] > 0.95
    upside_down = judge(faces, run, "--transform", "rotate180")["top1_frac"]
    assert upside_down > 0.9 if flips else upside_down < 0.65
