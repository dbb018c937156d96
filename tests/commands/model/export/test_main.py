"""`launcher export`: the export computes what the network does and describes itself, or nothing is written."""

from __future__ import annotations

import io
import json
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
from PIL import Image
from safetensors import safe_open
from timm.data.config import resolve_data_config
from timm.data.transforms_factory import create_transform
from torch import Tensor

from launcher.cli.main import run as launch
from launcher.commands.model.export.formats import EXPORTERS, Exporter, Predict
from launcher.commands.model.export.onnx import read_onnx_metadata
from launcher.commands.model.infer import to_input
from launcher.commands.model.load import TrainedModel, load_trained
from launcher.commands.model.options import ExportFormat
from launcher.data.reader import Sample, ShardReader
from launcher.errors import EXIT_USER_ERROR
from launcher.models.zoo import build_trained
from shards.manifest import read_manifest
from shards.sources.listing import PackOptions
from shards.write import pack
from tests.harness.evaluated_run import train_lenet
from tests.harness.small_run import alone
from tests.harness.two_runs import list_files
from tests.harness.workdir import LENET, WorkDir, plain_images

PLAIN = ("backbone.freeze=none", "train.epochs=2st", "optim.ema_decay=0.5")
FORMATS: tuple[ExportFormat, ...] = ("torchscript", "onnx", "safetensors", "hf")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, few_shards: Path) -> Path:
    path = tmp_path_factory.mktemp("trained")
    train_lenet(path, few_shards, *PLAIN)
    return path / "run"


@pytest.fixture
def run(workdir: WorkDir, trained: Path) -> Path:
    return Path(shutil.copytree(trained, workdir.path / "run", symlinks=True))


def export(*arguments: str | Path) -> int:
    return launch(["export", *map(str, arguments)])


@torch.no_grad()
def probabilities(trained: TrainedModel, images_BCHW: Tensor) -> Tensor:
    return trained.model(images_BCHW).softmax(1)  # type: ignore[no-any-return]


def run_onnx(path: Path, images_BCHW: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["probabilities"], {"images": images_BCHW.numpy()})[0])


def run_torchscript(path: Path, images_BCHW: Tensor) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found: Tensor = torch.jit.load(str(path))(images_BCHW)  # type: ignore[no-untyped-call]
    return found


def test_onnx_predicts_the_same_class_for_every_digit(workdir: WorkDir, digits: Path) -> None:
    data = f"data.dir={digits}"
    assert workdir.train(LENET, *PLAIN[:1], data, "train.epochs=40st", "train.global_batch=50", "optim.lr=0.05") == 0
    assert export("run", "--format", "onnx", "--output", "digits.onnx") == 0
    images_BCHW, labels_B = plain_images(workdir.load(data), "test")
    wanted_BK = probabilities(load_trained(Path("run"), "best", alone()), images_BCHW)
    found_BK = run_onnx(Path("digits.onnx"), images_BCHW)
    assert len(labels_B) > 300
    assert torch.equal(found_BK.argmax(1), wanted_BK.argmax(1))
    torch.testing.assert_close(found_BK, wanted_BK, rtol=0, atol=1e-5)
    assert len(set(wanted_BK.argmax(1).tolist())) > 3, "it has learned to tell some apart"
    for batch in (1, 5):
        torch.testing.assert_close(
            run_onnx(Path("digits.onnx"), images_BCHW[:batch]), wanted_BK[:batch], rtol=0, atol=1e-5
        )


def test_export_of_a_resnet_for_larger_images(workdir: WorkDir) -> None:
    size = "[{op: resize, size: 72}, {op: center_crop, size: 64}]"
    assert workdir.train("backbone.name=resnet18", *PLAIN, f"augment.train={size}", f"augment.eval={size}") == 0
    assert export("run", "--format", "onnx", "--output", "resnet.onnx") == 0
    assert export("run", "--format", "torchscript", "--output", "resnet.pt") == 0
    images_BCHW, _ = plain_images(workdir.load(f"augment.eval={size}"), "test")
    wanted_BK = probabilities(load_trained(Path("run"), "best", alone()), images_BCHW)
    assert images_BCHW.shape == (9, 3, 64, 64)
    for batch in (1, 5, 9):
        onnx_BK = run_onnx(Path("resnet.onnx"), images_BCHW[:batch])
        script_BK = run_torchscript(Path("resnet.pt"), images_BCHW[:batch])
        torch.testing.assert_close(onnx_BK, wanted_BK[:batch], rtol=0, atol=1e-4)
        torch.testing.assert_close(script_BK, wanted_BK[:batch], rtol=0, atol=1e-4)
    metadata = read_onnx_metadata(Path("resnet.onnx"))["preprocessing"]
    assert metadata["ops"] == [
        {"op": "resize", "size": 72, "interpolation": "bilinear", "antialias": True},
        {"op": "center_crop", "size": 64},
    ]
    assert metadata["size"] == [64, 64]


@pytest.mark.parametrize("name", FORMATS)
def test_export_holds_classes_and_preprocessing(
    run: Path, name: ExportFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export(run, "--format", name) == 0
    exporter = EXPORTERS[name]
    step = (run / "checkpoints/best").resolve().name
    [path] = (run / "exports").iterdir()
    assert path.name == f"{step}{exporter.suffix}"
    assert f"{name} of {step}; probabilities of 9 images of test of shards differ by at most" in (
        capsys.readouterr().out
    )
    metadata = exporter.read_metadata(path)
    assert tuple(metadata["classes"]) == read_manifest(Path("shards")).classes
    assert metadata["preprocessing"] == {
        "decode": "RGB, EXIF orientation applied",
        "ops": [{"op": "resize", "size": [32, 32], "interpolation": "bilinear", "antialias": True}],
        "size": [32, 32],
        "rescale": 1 / 255,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    images_BCHW = torch.randn(3, 3, 32, 32)
    trained = load_trained(run, "best", alone())
    with torch.no_grad():
        found_BK = exporter.open(path, trained.spec)(images_BCHW)
    torch.testing.assert_close(found_BK, probabilities(trained, images_BCHW), rtol=0, atol=1e-6)


def test_safetensors_and_hub_folder_have_plain_names(run: Path) -> None:
    for name in ("safetensors", "hf"):
        assert export(run, "--format", name, "--output", name) == 0
    trained = load_trained(run, "best", alone())
    for path in (Path("safetensors"), Path("hf/model.safetensors")):
        with safe_open(path, framework="pt") as file:
            assert set(file.keys()) == set(trained.model.state_dict())
            for key, tensor in trained.model.state_dict().items():
                assert torch.equal(file.get_tensor(key), tensor)
    config = json.loads(Path("hf/config.json").read_text())
    classes = trained.spec.classes
    assert (config["architecture"], config["library"]) == ("lenet", "launcher")
    assert config["id2label"] == {str(i): name for i, name in enumerate(classes)}
    assert config["label2id"] == {name: i for i, name in enumerate(classes)}
    processor = json.loads(Path("hf/preprocessor_config.json").read_text())
    assert processor["size"] == {"height": 32, "width": 32}
    assert processor["resample"] == 2
    assert processor["image_std"] == [0.25, 0.25, 0.25]
    assert not processor["do_center_crop"]


SHORTER = "[{op: resize, size: 40, interpolation: bicubic}, {op: center_crop, size: 32}]"
EXACTLY = "[{op: resize, size: [32, 32]}]"


@pytest.mark.parametrize("ops", [SHORTER, EXACTLY])
def test_timm_reads_the_folder_of_its_own_network(workdir: WorkDir, ops: str) -> None:
    assert workdir.train("backbone.name=timm/test_resnet", *PLAIN, f"augment.eval={ops}") == 0
    assert export("run", "--format", "hf", "--output", "hub") == 0
    model = timm.create_model(f"local-dir:{workdir.path / 'hub'}", pretrained=True).eval()
    images_BCHW = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        found_BK = model(images_BCHW).softmax(1)
    trained = load_trained(Path("run"), "best", alone())
    torch.testing.assert_close(found_BK, probabilities(trained, images_BCHW))
    config = resolve_data_config({}, model=model)  # type: ignore[no-untyped-call]
    assert tuple(config["std"]) == (0.25, 0.25, 0.25)
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 90, 3), dtype=np.uint8))
    stream = io.BytesIO()
    wide.save(stream, "PNG")
    theirs_CHW = create_transform(**config)(wide)
    ours_1CHW = to_input(Sample(stream.getvalue(), 0, "wide"), trained.augment)
    torch.testing.assert_close(theirs_CHW[None], ours_1CHW, rtol=0, atol=0.05)  # levels of bytes are 0.016 apart


def test_single_logit_becomes_two_probabilities(workdir: WorkDir, two_classes: Path) -> None:
    assert workdir.train(LENET, *PLAIN, f"data.dir={two_classes}", "loss.name=bce") == 0
    trained = load_trained(Path("run"), "best", alone())
    images_BCHW = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        wanted_B = trained.model(images_BCHW).sigmoid()[:, 0]
    assert export("run", "--format", "torchscript", "--output", "two.pt") == 0
    found_BK = run_torchscript(Path("two.pt"), images_BCHW)
    torch.testing.assert_close(found_BK, torch.stack([1 - wanted_B, wanted_B], 1), rtol=0, atol=1e-6)


@pytest.fixture
def two_classes(tmp_path: Path) -> Path:
    pack("synthetic:2x20x32", tmp_path / "two", PackOptions(images_per_shard=7))
    return tmp_path / "two"


def spoiled(exporter: Exporter, by: float) -> Exporter:
    """The exporter, but it writes a wrong weight."""

    def write(path: Path, trained: TrainedModel, metadata: dict[str, object], example_BCHW: Tensor) -> None:
        spec = trained.spec
        other = build_trained(spec.recipe.backbone, len(spec.classes))
        other.model.load_state_dict(trained.model.state_dict())
        with torch.no_grad():
            next(reversed(list(other.model.parameters())))[0] += by
        exporter.write(path, replace(trained, model=other.model), metadata, example_BCHW)

    return replace(exporter, write=write)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("by", [0.02, float("nan")])
def test_wrong_probabilities_are_refused_and_nothing_is_left(
    run: Path, name: ExportFormat, by: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(EXPORTERS, name, spoiled(EXPORTERS[name], by))
    assert export(run, "--format", name, "--output", "out/file") == EXIT_USER_ERROR
    [line] = capsys.readouterr().err.splitlines()
    assert "out/file: probabilities differ from the network's by" in line
    assert "more than 1e-03; nothing is written" in line
    assert list(Path("out").iterdir()) == []


def test_difference_below_the_limit_is_shown(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(EXPORTERS, "safetensors", spoiled(EXPORTERS["safetensors"], 0.002))
    assert export(run, "--format", "safetensors") == 0
    shown = float(capsys.readouterr().out.split()[-1])
    assert 1e-4 < shown < 1e-3


def test_failing_reader_is_one_line(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def open_fixed(path: Path, spec: object) -> Predict:
        def predict(images_BCHW: Tensor) -> Tensor:
            raise TypeError(f"batch {len(images_BCHW)} is not 2\nand more")

        return predict

    monkeypatch.setitem(EXPORTERS, "torchscript", replace(EXPORTERS["torchscript"], open=open_fixed))
    assert export(run, "--format", "torchscript") == EXIT_USER_ERROR
    assert capsys.readouterr().err == (
        "launcher: this network cannot be exported in this format (batch 1 is not 2); choose another --format\n"
    )
    assert list((run / "exports").iterdir()) == []


def test_data_option_replaces_missing_data(workdir: WorkDir, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = ShardReader(Path("shards"), read_manifest(Path("shards")), "test").read(0)
    Path("images").mkdir()
    Path("images/a.jpg").write_bytes(sample.content)
    Path("shards").unlink()
    assert export(run, "--format", "safetensors") == EXIT_USER_ERROR
    assert "or give a folder of images to check on with --data" in capsys.readouterr().err
    assert not (run / "exports").exists()
    assert export(run, "--format", "safetensors", "--data", "images") == 0
    assert "probabilities of 1 image of images differ" in capsys.readouterr().out


def test_export_writes_nothing_into_a_single_checkpoint(run: Path, tmp_path: Path) -> None:
    shutil.copytree((run / "checkpoints/last").resolve(), tmp_path / "alone")
    before = sorted((tmp_path / "alone").iterdir())
    assert export(tmp_path / "alone", "--format", "torchscript") == 0
    assert sorted((tmp_path / "alone").iterdir()) == before
    assert Path("exports/alone.pt").is_file()


def refused(capsys: pytest.CaptureFixture[str], arguments: Sequence[str | Path]) -> str:
    assert export(*arguments) == EXIT_USER_ERROR
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_mistake_is_one_line(run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    Path("there").mkdir()
    Path("link").symlink_to("elsewhere")
    assert "--output there: exists already" in refused(capsys, [run, "--format", "hf", "--output", "there"])
    assert "--output link: is a symbolic link" in refused(capsys, [run, "--format", "safetensors", "--output", "link"])
    assert "--checkpoint 9: no such checkpoint; valid: best" in refused(
        capsys, [run, "--format", "hf", "--checkpoint", "9"]
    )
    (run / "exports").symlink_to(run.parent)
    assert f"{run}/exports: is a symbolic link; remove it" in refused(capsys, [run, "--format", "safetensors"])
    Path("file").touch()
    line = refused(capsys, [run, "--format", "hf", "--output", "file/below/it"])
    assert line.startswith("launcher: --output file/below/it: cannot be written")
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "0")
        patch.setenv("WORLD_SIZE", "2")
        assert "export: runs as one process" in refused(capsys, [run, "--format", "hf"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    line = refused(capsys, [run, "--format", "onnx"])
    assert line == "launcher: --format onnx: onnxruntime is not installed; pip install 'launcher[export]'"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("safetensors --output pics/a.jpg", "--output pics/a.jpg: --format safetensors is for .safetensors, not .jpg"),
        ("torchscript --output net.onnx", "--output net.onnx: --format torchscript is for .pt, not .onnx"),
        ("hf --output net.safetensors", "--output net.safetensors: --format hf is for a folder, not .safetensors"),
        ("safetensors --data plain --output plain", "--output plain: is one of the images; choose another"),
        (
            "safetensors --output run/checkpoints/best/model.safetensors",
            "--output run/checkpoints/best/model.safetensors: is inside a checkpoint; choose another",
        ),
        (
            "hf --output run/checkpoints/last/a/b",
            "--output run/checkpoints/last/a/b: is inside a checkpoint; choose another",
        ),
    ],
)
def test_input_file_is_never_overwritten(
    run: Path, capsys: pytest.CaptureFixture[str], words: str, message: str
) -> None:
    Path("pics").mkdir()
    sample = ShardReader(Path("shards"), read_manifest(Path("shards")), "test").read(0)
    for name in ("pics/a.jpg", "plain"):
        Path(name).write_bytes(sample.content)
    before = list_files(Path())
    assert refused(capsys, ["run", "--format", *words.split()]).startswith(f"launcher: {message}")
    assert list_files(Path()) == before


def test_hub_format_refuses_other_preprocessing(workdir: WorkDir, capsys: pytest.CaptureFixture[str]) -> None:
    size = "[{op: center_crop, size: 20}, {op: resize, size: [32, 32]}]"
    assert workdir.train(LENET, *PLAIN, f"augment.eval={size}") == 0
    assert "can resize and then crop, not center_crop, resize" in refused(capsys, ["run", "--format", "hf"])
    assert export("run", "--format", "safetensors") == 0
