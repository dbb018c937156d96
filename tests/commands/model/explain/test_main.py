"""`launcher explain`: a PNG for each image and class, the same on any number of processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launcher.cli.main import run as launch
from launcher.commands.model.explain.main import AGAINST, FOR, READABLE_PIXELS, STRONGEST, blend, name_file
from launcher.data.reader import ShardReader
from launcher.errors import EXIT_USER_ERROR
from launcher.run.image_grid import CAPTION_HEIGHT, GAP
from shards.manifest import read_manifest
from tests.harness import runs
from tests.harness.workdir import LENET, WorkDir

GRAY_HWC = np.full((10, 10, 3), 100, dtype=np.uint8)


@pytest.fixture
def run(workdir: WorkDir) -> Path:
    assert workdir.train(LENET, "backbone.freeze=none", "train.epochs=2st") == 0
    return workdir.path / "run"


@pytest.fixture
def images(workdir: WorkDir) -> Path:
    """Five files, two of one name in different folders."""
    manifest = read_manifest(workdir.path / "shards")
    reader = ShardReader(workdir.path / "shards", manifest, "test")
    for number, name in enumerate(("a/1.jpg", "a/2.jpg", "b/1.jpg", "b/two words.jpg", "c.jpg")):
        path = workdir.path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(reader.read(number).content)
    return workdir.path / "images"


def test_each_image_has_a_png_with_its_heat_map(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert launch(["explain", str(run), str(images), "--device", "cpu"]) == 0
    folder = run / "explanations"
    assert f"{folder}: 5 images explained by occlusion, the predicted class of each" in capsys.readouterr().out
    files = sorted(folder.iterdir())
    assert [file.name.rpartition("-")[0].rpartition("-")[0] for file in files] == [
        "00000-1",
        "00001-2",
        "00002-1",
        "00003-two_words",
        "00004-c",
    ]
    sheet_HWC = np.asarray(Image.open(files[0]))
    assert sheet_HWC.shape == (READABLE_PIXELS + CAPTION_HEIGHT + 2 * GAP, 2 * READABLE_PIXELS + 3 * GAP, 3)
    top, right = GAP + CAPTION_HEIGHT, 2 * GAP + READABLE_PIXELS
    left_HWC = sheet_HWC[top : top + READABLE_PIXELS : 6, GAP:right:6][:, :32]
    [original_HWC] = [np.asarray(Image.open(images / "a/1.jpg").convert("RGB"))]
    assert np.abs(left_HWC.astype(int) - original_HWC).max() <= 2
    assert (sheet_HWC[top : top + READABLE_PIXELS, right : right + READABLE_PIXELS] != sheet_HWC[0, 0]).any()


@pytest.mark.parametrize("method", ["gradient-shap", "integrated-gradients", "gradcam"])
def test_each_given_class_has_a_png(run: Path, images: Path, method: str) -> None:
    classes = read_manifest(run.parent / "shards").classes[:2]
    method_options = [word for name in classes for word in ("--class", name)]
    samples = [] if method == "gradcam" else ["--samples", "4"]
    arguments = ["--method", method, *samples, "--output", "out", "--device", "cpu", *method_options]
    assert launch(["explain", str(run), str(images / "c.jpg"), *arguments]) == 0
    found = sorted(file.name for file in Path("out").iterdir())
    assert found == [name_file(Path("c.jpg"), 0, name, label) for label, name in enumerate(classes)]


def test_two_processes_write_what_one_writes(run: Path, images: Path) -> None:
    arguments = ("explain", run, images, "--method", "gradient-shap", "--samples", "5", "--output")
    assert launch([*map(str, arguments), "one", "--device", "cpu"]) == 0
    ended = runs.run(*arguments, "two", cwd=run.parent, processes=2)
    assert ended.code == 0, ended.err
    assert ended.out.count("5 images explained") == 1
    one, two = (sorted((run.parent / name).iterdir()) for name in ("one", "two"))
    assert [file.name for file in one] == [file.name for file in two]
    assert len(one) == 5
    for first, second in zip(one, two, strict=True):
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--class", "nobody"), "--class nobody: the run has no such class; valid: "),
        (("--window", "0"), "--window 0: must be at least 1"),
        (("--window", "4", "--stride", "5"), "--stride 5: would skip pixels between windows of 4; lower it"),
        (("--window", "40"), "--window 40: the network's input is 32 x 32 pixels; choose less"),
        (("--method", "gradient-shap", "--samples", "-1"), "--samples -1: must be at least 1"),
        (
            ("--samples", "50"),
            "--samples 50: has no effect with --method occlusion, only with gradient-shap and integrated-gradients; ",
        ),
        (
            ("--method", "gradcam", "--window", "10", "--stride", "3"),
            "--window 10: has no effect with --method gradcam, only with occlusion; leave it out",
        ),
        (
            ("--method", "integrated-gradients", "--stride", "3"),
            "--stride 3: has no effect with --method integrated-gradients, only with occlusion; leave it out",
        ),
        (("--checkpoint", "7"), "--checkpoint 7: no such checkpoint; valid: best, last, "),
    ],
)
def test_mistake_is_one_line(
    run: Path, images: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    words = ["explain", str(run), str(images), "--device", "cpu", *arguments]
    assert launch(words) == EXIT_USER_ERROR
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"launcher: {message}")


def test_unreadable_images_are_named_and_the_others_explained(run: Path, images: Path) -> None:
    """One unreadable image for each of two processes."""
    for name in ("a/2.jpg", "b/1.jpg"):
        (images / name).write_bytes(b"not an image")
    for processes in (1, 2):
        arguments = ("explain", run, images, "--method", "gradcam", "--output", str(processes))
        ended = runs.run(*arguments, cwd=run.parent, processes=processes)
        assert ended.code == 1
        lines = [line for line in ended.err.splitlines() if "cannot be decoded" in line]
        assert [line.partition(": cannot")[0] for line in lines] == [
            f"launcher: {images / name}" for name in ("a/2.jpg", "b/1.jpg")
        ]
        assert "shards check" not in ended.err
        assert "3 images explained by gradcam, the predicted class of each; skipped 2 unreadable images" in ended.out
        found = [file.name for file in sorted((run.parent / str(processes)).iterdir())]
        assert [name[:5] for name in found] == ["00000", "00003", "00004"]


def test_missing_images_are_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty").mkdir()
    for path, message in (
        ("nowhere", "nowhere: no such file, folder or pattern"),
        ("empty", "empty: no images there"),
    ):
        assert launch(["explain", str(run), path, "--device", "cpu"]) == EXIT_USER_ERROR
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith(f"launcher: {message}")


def test_explain_writes_through_no_link(run: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "explanations").symlink_to(images)
    assert launch(["explain", str(run), str(images), "--device", "cpu"]) == EXIT_USER_ERROR
    assert capsys.readouterr().err.startswith(f"launcher: {run}/explanations: is a symbolic link; remove it")
    assert len(list(images.iterdir())) == 3


def test_blend_is_red_for_blue_against_and_the_image_where_there_is_no_heat() -> None:
    heat_HW = np.zeros((10, 10), dtype=np.float32)
    heat_HW[:3], heat_HW[-3:] = 2, -2
    blended_HWC = blend(GRAY_HWC, heat_HW)
    for row, color in ((0, FOR), (9, AGAINST)):
        wanted = [round((1 - STRONGEST) * 100 + STRONGEST * level) for level in color]
        assert blended_HWC[row, 0].tolist() == wanted
    assert (blended_HWC[4:6] == 100).all()


def test_one_hot_pixel_does_not_make_the_others_pale() -> None:
    heat_HW = np.ones((10, 10), dtype=np.float32)
    expected_HWC = blend(GRAY_HWC, heat_HW)
    heat_HW[0, 0] = 1000
    assert (blend(GRAY_HWC, heat_HW) == expected_HWC).all()


def test_heat_of_few_pixels_shows_and_no_heat_changes_nothing() -> None:
    heat_HW = np.zeros((10, 10), dtype=np.float32)
    assert (blend(GRAY_HWC, heat_HW) == GRAY_HWC).all()
    heat_HW[5, 5] = 1e-6
    assert (blend(GRAY_HWC, heat_HW)[5, 5] != 100).all()
