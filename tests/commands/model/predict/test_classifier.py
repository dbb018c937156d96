"""Networks of torchvision, with random weights made here, against torchvision's own inference."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from launcher.cli.main import run
from shards.sources.synthetic import draw_jpeg

NAME = "squeezenet1_1"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for torchvision's weights. The working directory has no run."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.jpg" for i in range(3)]
    for i, path in enumerate(paths):
        path.write_bytes(draw_jpeg(i, 3, 0, 0, None))
    return paths


def test_probabilities_equal_torchvision(cache: Path, images: list[Path], tmp_path: Path) -> None:
    weights = torchvision.models.get_model_weights(NAME)["DEFAULT"]
    torch.manual_seed(3)
    model = torchvision.models.get_model(NAME, weights=None).eval()
    torch.save(model.state_dict(), cache / Path(urlparse(weights.url).path).name)
    words = ["predict", f"torchvision/{NAME}", *map(str, images), "--top", "1000", "--device", "cpu"]
    assert run([*words, "--output", "predictions.jsonl"]) == 0
    transform, names = weights.transforms(), weights.meta["categories"]
    for path, line in zip(images, (tmp_path / "predictions.jsonl").read_text().splitlines(), strict=True):
        with Image.open(path) as image, torch.inference_mode():
            [probs_K] = model(transform(image)[None]).softmax(1)
        found = {each["class"]: each["probability"] for each in json.loads(line)["predictions"]}
        assert found.keys() == set(names)
        expected = {name: prob for name, prob in zip(names, probs_K.tolist(), strict=True) if names.count(name) == 1}
        np.testing.assert_allclose([found[name] for name in expected], list(expected.values()), rtol=0.02)


def test_unknown_network_names_the_nearest(images: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "torchvision/vgg-13", str(images[0])]) == 2
    err = capsys.readouterr().err
    assert (
        err == "launcher: torchvision/vgg-13: torchvision has no such classifier; did you mean 'torchvision/vgg13'?\n"
    )
    assert run(["predict", f"torchvision/{NAME}", str(images[0]), "--checkpoint", "last"]) == 2
    assert (
        capsys.readouterr().err
        == f"launcher: --checkpoint last: torchvision/{NAME} has no checkpoints; leave the option out\n"
    )


@pytest.mark.parametrize(
    "failure", [urllib.error.URLError("Name or service not known"), RuntimeError('invalid hash value (expected "f3")')]
)
def test_failed_download_is_one_line(
    failure: Exception, images: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    assert run(["predict", "torchvision/vgg13", "missing.jpg"]) == 2
    assert capsys.readouterr().err == "launcher: missing.jpg: no such file, folder or pattern\n"
    assert run(["predict", "torchvision/vgg13", str(images[0])]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("launcher: torchvision/vgg13: its weights cannot be downloaded (")
    assert line.endswith("or set TORCH_HOME to a folder that has them")
