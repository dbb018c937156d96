"""`launcher evaluate` against a plain loop over the same images."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchmetrics.classification import MulticlassCalibrationError, MulticlassConfusionMatrix

from launcher.cli.main import run
from launcher.run.image_grid import CAPTION_HEIGHT, GAP
from shards.sources import PackOptions
from shards.write import pack
from tests.data.remote.shard_server import serve
from tests.harness.evaluated_run import CLASSES, NUM_TEST, decode, plain_scores, read_split, train_lenet, write_files

pytestmark = pytest.mark.usefixtures("in_evaluated_run")


def read_metrics(folder: Path) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((folder / "figures.json").read_text())["figures"]
    return metrics


@pytest.mark.parametrize(("transform", "axes"), [("none", ()), ("rotate180", (2, 3)), ("hflip", (3,)), ("vflip", (2,))])
def test_metrics_equal_a_plain_loop(
    in_evaluated_run: Path, tmp_path: Path, transform: str, axes: tuple[int, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "run", "--transform", transform, "--output", str(tmp_path)]) == 0
    members = read_split(in_evaluated_run / "shards", "test")
    scores_NK = plain_scores(in_evaluated_run / "run", [member.content for member in members], axes)
    labels_N = torch.tensor([member.label for member in members])
    probs_NK, predicted_N = scores_NK.softmax(1), scores_NK.argmax(1)
    metrics = read_metrics(tmp_path)
    assert metrics["num_images"] == NUM_TEST
    assert metrics["accuracy"] == pytest.approx((predicted_N == labels_N).float().mean().item())
    assert metrics["top5_accuracy"] == 1.0
    assert metrics["loss"] == pytest.approx(F.cross_entropy(scores_NK, labels_N).item(), rel=1e-5)
    expected = MulticlassCalibrationError(3, n_bins=15)(probs_NK, labels_N).item()
    assert metrics["ece"] == pytest.approx(expected, abs=1e-5)
    confusion_KK = MulticlassConfusionMatrix(3)(scores_NK, labels_N)
    with (tmp_path / "confusion.csv").open() as file:
        head, *rows = csv.reader(file)
    assert head[1:] == [row[0] for row in rows] == list(CLASSES)
    assert [[int(number) for number in row[1:]] for row in rows] == confusion_KK.tolist()
    for k, name in enumerate(CLASSES):
        num_images = int(confusion_KK[k].sum())
        assert metrics["per_class"][name] == {
            "recall": pytest.approx(int(confusion_KK[k, k]) / num_images),
            "support": num_images,
        }
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as kept:
        assert kept["name"].tolist() == [member.name for member in members]
        assert kept["classes"].tolist() == list(CLASSES)
        np.testing.assert_array_equal(kept["label"], labels_N)
        order_NK = probs_NK.argsort(dim=1, descending=True)
        np.testing.assert_array_equal(kept["top"], order_NK)
        np.testing.assert_allclose(kept["prob"], probs_NK.gather(1, order_NK), rtol=1e-4)
        np.testing.assert_allclose(kept["label_prob"], probs_NK[torch.arange(NUM_TEST), labels_N], rtol=1e-4)
        np.testing.assert_allclose(kept["loss"], F.cross_entropy(scores_NK, labels_N, reduction="none"), rtol=1e-4)
    out = capsys.readouterr().out
    assert f"accuracy {metrics['accuracy']:.2%}" in out
    assert "calibration error" in out


def test_metrics_equal_those_of_the_training(in_evaluated_run: Path) -> None:
    assert run(["evaluate", "run"]) == 0
    expected = json.loads((in_evaluated_run / "run/summary.json").read_text())["test"]
    metrics = read_metrics(in_evaluated_run / "run/evaluations/test-best")
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert {**expected, "loss": None} == {**{key: metrics[key] for key in expected}, "loss": None}
    assert run(["evaluate", "run", "--split", "valid", "--checkpoint", "last"]) == 0
    assert read_metrics(in_evaluated_run / "run/evaluations/valid-last")["num_images"] == NUM_TEST


def test_mistakes_png_shows_the_wrong_images(in_evaluated_run: Path, tmp_path: Path) -> None:
    assert run(["evaluate", "run", "--transform", "rotate180", "--output", str(tmp_path)]) == 0
    members = read_split(in_evaluated_run / "shards", "test")
    with np.load(tmp_path / "predictions.npz") as kept:
        wrong = [i for i in range(NUM_TEST) if kept["top"][i, 0] != kept["label"][i]]
        wrong.sort(key=lambda i: -kept["prob"][i, 0])
    assert wrong
    with Image.open(tmp_path / "mistakes.png") as image:
        sheet_HWC = np.asarray(image).astype(int)
    side = 96
    for cell, i in enumerate(wrong):
        y = GAP + cell // 5 * (side + CAPTION_HEIGHT + GAP) + CAPTION_HEIGHT
        x = GAP + cell % 5 * (side + GAP)
        seen_HWC = sheet_HWC[y : y + side : 3, x : x + side : 3]
        assert np.abs(seen_HWC - decode(members[i].content)[::-1, ::-1].astype(int)).max() <= 1


def test_mistakes_png_is_absent_without_mistakes(in_evaluated_run: Path, tmp_path: Path) -> None:
    """Images in the folders of their predicted classes."""
    members = read_split(in_evaluated_run / "shards", "test")
    predicted = plain_scores(in_evaluated_run / "run", [member.content for member in members]).argmax(1).tolist()
    for name in CLASSES:
        (tmp_path / "data" / name).mkdir(parents=True)
    for i, (member, k) in enumerate(zip(members, predicted, strict=True)):
        (tmp_path / "data" / CLASSES[k] / f"{i}.jpg").write_bytes(member.content)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mistakes.png").write_text("of another evaluation")
    words = ["evaluate", "run", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    assert run(words) == 0
    assert read_metrics(tmp_path / "out")["accuracy"] == 1.0
    assert not (tmp_path / "out/mistakes.png").exists()


def test_folders_and_shards_with_classes_in_another_order_give_the_same(in_evaluated_run: Path, tmp_path: Path) -> None:
    assert run(["evaluate", "run"]) == 0
    expected = read_metrics(in_evaluated_run / "run/evaluations/test-best")
    for split in ("train", "test"):
        write_files(in_evaluated_run / "shards", split, tmp_path / "images" / split)
    pack(f"imagefolder:{tmp_path / 'images'}", tmp_path / "packed", PackOptions(classes=CLASSES[::-1]))
    for data in (tmp_path / "images", tmp_path / "packed", tmp_path / "images/test"):
        assert run(["evaluate", "run", "--data", str(data)]) == 0
        [folder] = (in_evaluated_run / "run/evaluations").glob(f"test-best-{data.name}-??????")
        metrics = read_metrics(folder)
        assert metrics == {**expected, "loss": pytest.approx(expected["loss"]), "ece": pytest.approx(
            expected["ece"])}  # fmt: skip


def test_one_logit_gives_two_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pack("synthetic:2x30x32", tmp_path / "packed", PackOptions())
    train_lenet(tmp_path / "bce", tmp_path / "packed", "loss.name=bce")
    monkeypatch.chdir(tmp_path / "bce")
    assert run(["evaluate", "run"]) == 0
    metrics = read_metrics(tmp_path / "bce/run/evaluations/test-best")
    expected = json.loads((tmp_path / "bce/run/summary.json").read_text())["test"]
    assert metrics["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert metrics["per_class"] == expected["per_class"]
    with np.load(tmp_path / "bce/run/evaluations/test-best/predictions.npz") as kept:
        np.testing.assert_allclose(-np.log(kept["label_prob"]), kept["loss"], rtol=1e-4)
        np.testing.assert_allclose(kept["prob"].sum(axis=1), 1, rtol=1e-5)
    assert run(["predict", "run", "shards", "--split", "test", "--output", "predictions.jsonl"]) == 0
    lines = [json.loads(line) for line in Path("predictions.jsonl").read_text().splitlines()]
    is_right = [line["predictions"][0]["class"] == line["truth"] for line in lines]
    assert sum(is_right) / len(is_right) == expected["accuracy"]


def test_shards_at_a_url_give_the_same_metrics(in_evaluated_run: Path, tmp_path: Path) -> None:
    assert run(["evaluate", "run"]) == 0
    with serve(in_evaluated_run / "shards") as served:
        words = ["evaluate", "run", "--data", served.url, "--output", str(tmp_path)]
        assert run(words) == 0
    found, expected = (folder / "figures.json" for folder in (tmp_path, in_evaluated_run / "run/evaluations/test-best"))
    contents = [json.loads(path.read_text()) for path in (found, expected)]
    assert contents[0].pop("data") == served.url
    assert contents[1].pop("data") == "shards"
    assert contents[0] == contents[1]


def test_unreadable_image_is_skipped_and_reported(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_files(in_evaluated_run / "shards", "test", tmp_path / "data")
    paths[4].write_bytes(paths[4].read_bytes()[:300])
    assert run(["evaluate", "run", "--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 0
    content = json.loads((tmp_path / "out/figures.json").read_text())
    assert (content["figures"]["num_images"], content["figures"]["num_skipped"]) == (NUM_TEST - 1, 1)
    assert [str(paths[4]) in message for message in content["skipped_samples"]] == [True]
    with np.load(tmp_path / "out/predictions.npz") as kept:
        assert sorted(kept["name"].tolist()) == sorted(str(path) for path in paths if path != paths[4])
    assert "1 unreadable image" in capsys.readouterr().out


def test_charts_are_left_out_without_matplotlib(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run(["evaluate", "run", "--output", str(tmp_path)]) == 0
    assert "note: confusion.png needs matplotlib: pip install 'launcher[charts]'" in capsys.readouterr().out
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"figures.json", "predictions.npz", "confusion.csv", "mistakes.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split", "tset"], "--split tset: shards has no such split; did you mean 'test'?"),
        (
            ["--data", "nowhere"],
            "--data nowhere: no such folder; give a folder of shards, or one with a folder for each",
        ),
        (["--checkpoint", "7"], "--checkpoint 7: no such checkpoint; valid: best, last, "),
        (["--data", "others", "--split", "valid"], "--split valid: others has no splits; leave the option out"),
        (["--transform", "upside"], "upside"),
        (["--output", "small.yaml"], "small.yaml: not a folder; choose another with --output"),
        (["--data", "others"], "others: its classes are not the run's: missing class_1, class_2; unknown wasps; "),
    ],
)
def test_mistake_is_one_line(
    in_evaluated_run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("class_0", "wasps"):
        (in_evaluated_run / "others" / name).mkdir(parents=True, exist_ok=True)
        shutil.copy(
            write_files(in_evaluated_run / "shards", "test", in_evaluated_run / "files")[0],
            in_evaluated_run / "others" / name,
        )
    assert run(["evaluate", "run", *words]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert message in line


def test_evaluate_does_not_change_a_checkpoint_folder(in_evaluated_run: Path, tmp_path: Path) -> None:
    of_run = (in_evaluated_run / "run/checkpoints/best").resolve()
    alone = Path(shutil.copytree(of_run, tmp_path / of_run.name))
    before = sorted(alone.iterdir())
    for checkpoint, folder in (
        (of_run, in_evaluated_run / "run/evaluations"),
        (alone, in_evaluated_run / "evaluations"),
    ):
        assert run(["evaluate", str(checkpoint)]) == 0
        assert read_metrics(folder / f"test-{of_run.name}")["num_images"] == NUM_TEST
    assert sorted(alone.iterdir()) == sorted(before)


def test_checkpoint_option_is_refused_for_a_checkpoint(
    in_evaluated_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "run/checkpoints/best", "--checkpoint", "last"]) == 2
    assert (
        "--checkpoint last: run/checkpoints/best is a checkpoint itself; leave the option out"
        in capsys.readouterr().err
    )


def test_data_of_one_name_at_two_locations_have_two_folders(in_evaluated_run: Path, tmp_path: Path) -> None:
    for workdir in ("a", "b"):
        write_files(in_evaluated_run / "shards", "test" if workdir == "a" else "valid", tmp_path / workdir / "photos")
        assert run(["evaluate", "run", "--data", str(tmp_path / workdir / "photos")]) == 0
    folders = [*(in_evaluated_run / "run/evaluations").glob("test-best-photos-??????")]
    found = {json.loads((folder / "figures.json").read_text())["data"] for folder in folders}
    assert found == {str(tmp_path / workdir / "photos") for workdir in ("a", "b")}


def test_interrupted_evaluation_keeps_no_old_metrics(
    in_evaluated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would not belong to the new predictions."""
    assert run(["evaluate", "run", "--output", str(tmp_path)]) == 0

    def fail(*parts: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.commands.model.evaluate.report._write_mistakes", fail)
    assert run(["evaluate", "run", "--output", str(tmp_path)]) != 0
    assert not (tmp_path / "figures.json").exists()


def test_evaluate_writes_through_no_link(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(
        in_evaluated_run / "run", tmp_path / "copy", symlinks=True, ignore=shutil.ignore_patterns("evaluations")
    )
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "copy/evaluations").symlink_to(tmp_path / "elsewhere")
    assert run(["evaluate", str(tmp_path / "copy")]) == 2
    assert "evaluations: is a symbolic link" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []
