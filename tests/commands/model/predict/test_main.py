"""`launcher predict` against a plain loop over the same images."""

from __future__ import annotations

import csv
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from launcher.cli.main import run
from launcher.commands.model.predict.output import FORMATS, Prediction, open_output
from launcher.commands.model.predict.predictor import BATCH
from launcher.data.image_files import FilePart
from launcher.data.threads import READ_AHEAD
from launcher.run.image_grid import CAPTION_HEIGHT, GAP
from tests.harness.evaluated_run import CLASSES, decode, plain_scores, read_split, write_files
from tests.harness.runs import finish, start
from tests.harness.runs import run as run_ranks
from tests.harness.small_disk import mount_small
from tests.harness.two_runs import list_files

pytestmark = pytest.mark.usefixtures("in_evaluated_run")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_accuracy_equals_that_of_evaluate(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "run", "--output", str(tmp_path / "evaluated")]) == 0
    metrics = json.loads((tmp_path / "evaluated/figures.json").read_text())["figures"]
    assert run(["predict", "run", "shards", "--split", "test", "--output", str(tmp_path / "predictions.jsonl")]) == 0
    lines = read_lines(tmp_path / "predictions.jsonl")
    is_right = [line["predictions"][0]["class"] == line["truth"] for line in lines]
    assert sum(is_right) / len(is_right) == metrics["accuracy"]
    assert 0 < sum(is_right) < len(is_right)
    assert f"9 images, accuracy {metrics['accuracy']:.2%} on the 9 of a known class" in capsys.readouterr().err
    with np.load(tmp_path / "evaluated/predictions.npz") as kept:
        assert [line["image"] for line in lines] == [f"shards/{name}" for name in kept["name"].tolist()]
        probabilities = [[each["probability"] for each in line["predictions"]] for line in lines]
        np.testing.assert_allclose(probabilities, kept["prob"], rtol=1e-4)


@pytest.mark.parametrize("flips", [False, True])
def test_probabilities_equal_a_plain_loop(in_evaluated_run: Path, tmp_path: Path, flips: bool) -> None:
    members = read_split(in_evaluated_run / "shards", "test")
    contents = [member.content for member in members]
    probs_NK = plain_scores(in_evaluated_run / "run", contents).softmax(1)
    mirrored_NK = plain_scores(in_evaluated_run / "run", contents, (3,)).softmax(1)
    assert (probs_NK - mirrored_NK).abs().max() > 1e-3
    if flips:
        probs_NK = (probs_NK + mirrored_NK) / 2
    paths = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    output = tmp_path / "predictions.csv"
    words = ["predict", "run", *map(str, paths), "--top", "2", "--output", str(output)]
    assert run([*words, *(["--flips"] if flips else [])]) == 0
    with output.open(newline="") as file:
        head, *rows = csv.reader(file)
    assert head == ["image", "truth", "class_1", "probability_1", "class_2", "probability_2"]
    assert [row[0] for row in rows] == [str(path) for path in paths]
    assert [row[1] for row in rows] == [CLASSES[member.label] for member in members]
    top_N2 = probs_NK.topk(2, dim=1)
    assert [[row[2], row[4]] for row in rows] == [[CLASSES[k] for k in two] for two in top_N2.indices.tolist()]
    np.testing.assert_allclose([[float(row[3]), float(row[5])] for row in rows], top_N2.values, rtol=1e-4)


def test_table_shows_class_probability_and_truth(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_files(in_evaluated_run / "shards", "test", tmp_path)[0]
    alone = tmp_path / "alone.jpg"
    alone.write_bytes(path.read_bytes())
    [scores_K] = plain_scores(in_evaluated_run / "run", [path.read_bytes()])
    k = int(scores_K.argmax())
    cell = f"{CLASSES[k]} {scores_K.softmax(0)[k]:.1%}"
    assert run(["predict", "run", str(alone), "--top", "1"]) == 0
    out = capsys.readouterr().out
    assert str(alone) in out
    assert cell in out
    assert "truth" not in out
    assert run(["predict", "run", str(path), "--output", str(tmp_path / "table.txt")]) == 0
    assert capsys.readouterr().out == ""
    table = (tmp_path / "table.txt").read_text()
    assert cell in table
    assert "truth" in table
    assert run(["predict", "run", str(path), "--format", "jsonl"]) == 0
    assert json.loads(capsys.readouterr().out)["predictions"][0]["class"] == CLASSES[k]


def test_unreadable_images_are_named_and_the_others_predicted(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    paths[5].write_bytes(b"not an image")
    paths[7].unlink()
    paths[7].symlink_to(tmp_path / "gone")
    words = [*map(str, paths), str(tmp_path / "files")]
    assert run(["predict", "run", *words, "--output", str(tmp_path / "predictions.jsonl")]) == 1
    err = capsys.readouterr().err
    for path in (paths[2], paths[5]):
        [line] = [line for line in err.splitlines() if str(path) in line]
        assert line.startswith(f"launcher: {path}: cannot be decoded (")
        assert "shards check" not in line
    assert err.count(f"launcher: {paths[7]}: cannot be read (No such file or directory)") == 1
    assert "6 images, " in err
    assert "; skipped 3 unreadable images" in err
    good = [path for path in paths if path not in (paths[2], paths[5], paths[7])]
    assert [line["image"] for line in read_lines(tmp_path / "predictions.jsonl")] == [str(path) for path in good]


def test_wrong_argument_is_found_before_anything_is_computed(
    in_evaluated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = []
    monkeypatch.setattr(FilePart, "read", lambda part, number: read.append(number))
    path = write_files(in_evaluated_run / "shards", "test", tmp_path)[0]
    output = tmp_path / "predictions.jsonl"
    for words in (
        [str(tmp_path / "missing.jpg")],
        ["--grid", str(tmp_path / "grid.jpg")],
        ["--grid", str(tmp_path / "nowhere/grid.png")],
        ["--top", "0"],
        ["--checkpoint", "77"],
    ):
        assert run(["predict", "run", str(path), *words, "--output", str(output)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
    assert run(["predict", "run", str(path), "--output", os.devnull]) == 2
    assert run(["predict", str(tmp_path / "no-run"), str(path), "--output", str(output)]) == 2
    assert "no such folder; give a run's" in capsys.readouterr().err
    assert run(["predict", "run"]) == 2
    assert read == []
    assert not output.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--output files/class_0/a.jpg",
            "--output files/class_0/a.jpg: no format has the suffix .jpg; valid: .csv, .jsonl, .txt",
        ),
        ("--output predictions.cvs", "--output predictions.cvs: no format has the suffix .cvs; did you mean '.csv'?"),
        (
            "--output a.csv --format jsonl",
            "--output a.csv: --format jsonl is for .jsonl, not .csv; leave one of the two",
        ),
        (
            "--output a.jpg --format table",
            "--output a.jpg: --format table is for .txt, not .jpg; leave one of the two out",
        ),
        ("--output plain --format csv", "--output plain: is one of the images; choose another"),
        ("--grid files/b.png", "--grid files/b.png: is one of the images; choose another"),
        ("--grid link.png", "--grid link.png: is one of the images; choose another"),
        ("--grid files/c.jpg", "--grid files/c.jpg: must end in .png"),
        ("--output run/journal.jsonl", "--output run/journal.jsonl: is the journal of a run; choose another"),
        (
            "--output same.png --grid same.png",
            "--output same.png: no format has the suffix .png; valid: .csv, .jsonl, .txt",
        ),
    ],
)
def test_input_file_is_never_overwritten(
    in_evaluated_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    message: str,
) -> None:
    image = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")[0]
    for name in ("files/class_0/a.jpg", "files/b.png", "files/c.jpg", "plain"):
        (tmp_path / name).write_bytes(image.read_bytes())
    (tmp_path / "link.png").symlink_to("files/b.png")
    (tmp_path / "run").symlink_to(in_evaluated_run / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FilePart, "read", lambda part, number: pytest.fail("computed"))
    before = list_files(tmp_path)
    assert run(["predict", "run", "files", "plain", *words.split()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"launcher: {message}")
    assert list_files(tmp_path) == before


def test_top_beyond_the_number_of_classes_gives_all(in_evaluated_run: Path, tmp_path: Path) -> None:
    words = [
        "predict",
        "run",
        "shards",
        "--split",
        "test",
        "--top",
        "500",
        "--output",
        str(tmp_path / "predictions.jsonl"),
    ]
    assert run(words) == 0
    for line in read_lines(tmp_path / "predictions.jsonl"):
        assert {each["class"] for each in line["predictions"]} == {*CLASSES}


def test_output_without_suffix_takes_any_format(in_evaluated_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions"
    for words in ([], ["--format", "csv"]):
        assert run(["predict", "run", "shards", "--split", "test", "--output", str(output), *words]) == 0
    assert output.read_text().startswith("image,truth,class_1")


def test_grid_shows_the_first_images(in_evaluated_run: Path, tmp_path: Path) -> None:
    assert run(["predict", "run", "shards", "--split", "test", "--grid", str(tmp_path / "grid.png")]) == 0
    with Image.open(tmp_path / "grid.png") as image:
        sheet_HWC = np.asarray(image).astype(int)
    side = 96
    assert sheet_HWC.shape == (2 * (side + CAPTION_HEIGHT + GAP) + GAP, 8 * (side + GAP) + GAP, 3)
    for i, member in enumerate(read_split(in_evaluated_run / "shards", "test")):
        y = GAP + i // 8 * (side + CAPTION_HEIGHT + GAP) + CAPTION_HEIGHT
        x = GAP + i % 8 * (side + GAP)
        assert np.abs(sheet_HWC[y : y + side : 3, x : x + side : 3] - decode(member.content)).max() <= 1
        assert (sheet_HWC[y - CAPTION_HEIGHT : y, x : x + side] < 128).any(), "no caption"


def test_images_are_read_only_shortly_before_use(
    in_evaluated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However slowly predictions are consumed, few of thousands of images are in memory."""
    path = write_files(in_evaluated_run / "shards", "test", tmp_path)[0]
    num_images, num_read, ahead = 40 * BATCH, 0, []
    names = [str(tmp_path / f"{number:04}.jpg") for number in range(num_images)]
    for name in names:
        os.link(path, name)
    read = FilePart.read

    def counted(part: FilePart, number: int) -> object:
        nonlocal num_read
        num_read += 1
        return read(part, number)

    def slow(predictions: Iterable[Prediction], _num_best: int, _width: int) -> Iterator[str]:
        for num_taken, prediction in enumerate(predictions, 1):
            ahead.append(num_read - num_taken)
            yield f"{prediction.name}\n"

    monkeypatch.setattr(FilePart, "read", counted)
    monkeypatch.setattr("launcher.commands.model.predict.main.FORMATS", {**FORMATS, "jsonl": slow})
    monkeypatch.setattr("launcher.commands.model.infer.count_cpus", lambda comm: 2)
    output = tmp_path / "predictions.jsonl"
    assert run(["predict", "run", *names, "--output", str(output)]) == 0
    assert output.read_text().splitlines() == names
    assert max(ahead) <= (2 + READ_AHEAD + 1) * BATCH


def test_interrupted_output_is_not_kept(
    in_evaluated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(predictions: Iterable[Prediction], _num_best: int, _width: int) -> Iterator[str]:
        yield next(iter(predictions)).name
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.commands.model.predict.main.FORMATS", {**FORMATS, "csv": failing})
    output = tmp_path / "predictions.csv"
    output.write_text("of before")
    assert run(["predict", "run", "shards", "--output", str(output)]) == 130
    assert output.read_text() == "of before"
    assert list(tmp_path.iterdir()) == [output]


def test_control_c_is_one_line_and_leaves_no_file(in_evaluated_run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    Image.fromarray(rng.integers(0, 255, (900, 900, 3), np.uint8)).save(tmp_path / "files/a.png")
    for number in range(4000):
        os.link(tmp_path / "files/a.png", tmp_path / f"files/{number}.png")
    process = start(["predict", "run", tmp_path / "files", "--output", tmp_path / "predictions.csv"], in_evaluated_run)
    while not list(tmp_path.glob(".predictions.csv.*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == "launcher: interrupted"
    assert "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_full_disk_is_named_and_nothing_is_kept_on_it(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    words = ["predict", "run", str(tmp_path / "files"), "shards", "--output"]
    with mount_small(tmp_path / "disk", 4096) as disk:
        assert run([*words, str(disk / "predictions.jsonl")]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"launcher: no space left on the disk of {disk}/predictions.jsonl; free some")
        assert run([*words, str(tmp_path / "predictions.csv"), "--grid", str(disk / "predictions.png")]) == 2
        assert f"--grid {disk}/predictions.png: cannot be written (No space left on device)" in capsys.readouterr().err
        assert list(disk.iterdir()) == []


def test_concurrent_writers_do_not_mix_their_output(in_evaluated_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.csv"
    with open_output(output) as first, open_output(output) as second:
        first("of the first")
        second("second")
    assert output.read_text() == "of the first"
    assert list(tmp_path.iterdir()) == [output]


def test_two_processes_write_what_one_writes(in_evaluated_run: Path, tmp_path: Path) -> None:
    """Three batches, so that one process has none in the second round; one unreadable image per process."""
    [path, *_] = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    rng = np.random.default_rng(0)
    for number in range(70):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / f"files/{number:03d}.png")
    for number in (5, 40):
        (tmp_path / f"files/{number:03d}.png").write_bytes(path.read_bytes()[:100])
    written = {}
    for processes in (1, 2):
        output, grid = tmp_path / f"predictions-{processes}.jsonl", tmp_path / f"grid-{processes}.png"
        words: list[str | Path] = ["predict", "run", tmp_path / "files", "--output", output, "--grid", grid]
        ended = run_ranks(*words, cwd=in_evaluated_run, processes=processes)
        assert ended.code == 1
        assert ended.out == ""
        for number in (5, 40):
            assert ended.err.count(f"{number:03d}.png") == 1
        assert "skipped 2 unreadable images" in ended.err
        written[processes] = (output.read_bytes(), grid.read_bytes())
    assert written[1] == written[2]
    assert len(written[1][0].splitlines()) == 77
    refused = run_ranks("predict", "run", tmp_path / "nothing.png", cwd=in_evaluated_run, processes=2)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
