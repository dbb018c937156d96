"""`launcher predict` beside a plain loop over the same pictures."""

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
from launcher.commands.model.predict import main
from launcher.commands.model.predict.output import FORMATS, Prediction, open_output
from launcher.data.loader import READ_AHEAD
from launcher.data.pictures import FilePart
from launcher.run.pictures import CAPTION_HEIGHT, GAP
from tests.harness.evaluated_run import CLASSES, decode, plain_scores, read_split, write_files
from tests.harness.runs import finish, ranks_of, run_warm, start
from tests.harness.small_disk import mount_small
from tests.harness.two_runs import list_files

pytestmark = pytest.mark.usefixtures("in_judged")


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_counts_to_the_accuracy_that_evaluate_says(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "run", "--output", str(tmp_path / "judged")]) == 0
    metrics = json.loads((tmp_path / "judged/figures.json").read_text())["figures"]
    assert run(["predict", "run", "shards", "--split", "test", "--output", str(tmp_path / "said.jsonl")]) == 0
    lines = read_lines(tmp_path / "said.jsonl")
    is_right = [line["predictions"][0]["class"] == line["truth"] for line in lines]
    assert sum(is_right) / len(is_right) == metrics["top1_frac"]
    assert 0 < sum(is_right) < len(is_right)
    assert f"9 pictures, top-1 {metrics['top1_frac']:.2%} of the 9 whose class is known" in capsys.readouterr().err
    with np.load(tmp_path / "judged/predictions.npz") as kept:
        assert [line["image"] for line in lines] == [f"shards/{name}" for name in kept["name"].tolist()]
        said = [[each["probability"] for each in line["predictions"]] for line in lines]
        np.testing.assert_allclose(said, kept["prob"], rtol=1e-4)


@pytest.mark.parametrize("flips", [False, True])
def test_probabilities_are_those_of_a_plain_loop(in_evaluated_run: Path, tmp_path: Path, flips: bool) -> None:
    members = read_split(in_evaluated_run / "shards", "test")
    contents = [member.content for member in members]
    probs_NK = plain_scores(in_evaluated_run / "run", contents).softmax(1)
    mirrored_NK = plain_scores(in_evaluated_run / "run", contents, (3,)).softmax(1)
    assert (probs_NK - mirrored_NK).abs().max() > 1e-3
    if flips:
        probs_NK = (probs_NK + mirrored_NK) / 2
    paths = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    output = tmp_path / "said.csv"
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


def test_a_table_for_people(in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_what_cannot_be_read_is_named_and_the_others_go_on(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    paths[2].write_bytes(paths[2].read_bytes()[:300])
    paths[5].write_bytes(b"no picture at all")
    paths[7].unlink()
    paths[7].symlink_to(tmp_path / "gone")
    words = [*map(str, paths), str(tmp_path / "files")]
    assert run(["predict", "run", *words, "--output", str(tmp_path / "said.jsonl")]) == 1
    err = capsys.readouterr().err
    for path in (paths[2], paths[5]):
        [line] = [line for line in err.splitlines() if str(path) in line]
        assert line.startswith(f"launcher: {path}: cannot be decoded (")
        assert "shards check" not in line
    assert err.count(f"launcher: {paths[7]}: cannot be read (No such file or directory)") == 1
    assert "6 pictures, " in err
    assert ", 3 more cannot be read" in err
    good = [path for path in paths if path not in (paths[2], paths[5], paths[7])]
    assert [line["image"] for line in read_lines(tmp_path / "said.jsonl")] == [str(path) for path in good]


def test_nothing_is_computed_when_something_named_is_not_there(
    in_evaluated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = []
    monkeypatch.setattr(FilePart, "read", lambda part, number: read.append(number))
    path = write_files(in_evaluated_run / "shards", "test", tmp_path)[0]
    output = tmp_path / "said.jsonl"
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
    ("words", "says"),
    [
        (
            "--output files/class_0/a.jpg",
            "--output files/class_0/a.jpg: no format ends in .jpg; valid: .csv, .jsonl, .txt",
        ),
        ("--output said.cvs", "--output said.cvs: no format ends in .cvs; did you mean '.csv'?"),
        (
            "--output a.csv --format jsonl",
            "--output a.csv: --format jsonl is for .jsonl, not .csv; leave one of the two",
        ),
        (
            "--output a.jpg --format table",
            "--output a.jpg: --format table is for .txt, not .jpg; leave one of the two out",
        ),
        ("--output plain --format csv", "--output plain: is one of the pictures; name another"),
        ("--grid files/b.png", "--grid files/b.png: is one of the pictures; name another"),
        ("--grid link.png", "--grid link.png: is one of the pictures; name another"),
        ("--grid files/c.jpg", "--grid files/c.jpg: must end in .png"),
        ("--output run/journal.jsonl", "--output run/journal.jsonl: is the journal of a run; name another"),
        ("--output same.png --grid same.png", "--output same.png: no format ends in .png; valid: .csv, .jsonl, .txt"),
    ],
)
def test_nothing_that_is_read_is_written_over(
    in_evaluated_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    says: str,
) -> None:
    picture = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")[0]
    for name in ("files/class_0/a.jpg", "files/b.png", "files/c.jpg", "plain"):
        (tmp_path / name).write_bytes(picture.read_bytes())
    (tmp_path / "link.png").symlink_to("files/b.png")
    (tmp_path / "run").symlink_to(in_evaluated_run / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FilePart, "read", lambda part, number: pytest.fail("computed"))
    before = list_files(tmp_path)
    assert run(["predict", "run", "files", "plain", *words.split()]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"launcher: {says}")
    assert list_files(tmp_path) == before


def test_of_fewer_classes_than_wanted_all_are_named(in_evaluated_run: Path, tmp_path: Path) -> None:
    words = ["predict", "run", "shards", "--split", "test", "--top", "500", "--output", str(tmp_path / "said.jsonl")]
    assert run(words) == 0
    for line in read_lines(tmp_path / "said.jsonl"):
        assert {each["class"] for each in line["predictions"]} == {*CLASSES}


def test_a_name_without_an_ending_is_of_any_format(in_evaluated_run: Path, tmp_path: Path) -> None:
    for words in ([], ["--format", "csv"]):
        assert run(["predict", "run", "shards", "--split", "test", "--output", str(tmp_path / "said"), *words]) == 0
    assert (tmp_path / "said").read_text().startswith("image,truth,class_1")


def test_the_grid_shows_the_first_pictures(in_evaluated_run: Path, tmp_path: Path) -> None:
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


def test_no_more_pictures_are_read_than_will_soon_be_needed(
    in_evaluated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands stream through: however slowly they are taken, few are in memory."""
    path = write_files(in_evaluated_run / "shards", "test", tmp_path)[0]
    num_images, num_read, ahead = 40 * main.BATCH, 0, []
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
    monkeypatch.setattr("launcher.commands.model.infer.count_workers", lambda wanted, world: 2)
    output = tmp_path / "said.jsonl"
    assert run(["predict", "run", *names, "--output", str(output)]) == 0
    assert output.read_text().splitlines() == names
    assert max(ahead) <= (2 + READ_AHEAD + 1) * main.BATCH


def test_half_written_output_is_not_left(
    in_evaluated_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(predictions: Iterable[Prediction], _num_best: int, _width: int) -> Iterator[str]:
        yield next(iter(predictions)).name
        raise KeyboardInterrupt

    monkeypatch.setattr("launcher.commands.model.predict.main.FORMATS", {**FORMATS, "csv": failing})
    output = tmp_path / "said.csv"
    output.write_text("of before")
    assert run(["predict", "run", "shards", "--output", str(output)]) == 130
    assert output.read_text() == "of before"
    assert list(tmp_path.iterdir()) == [output]


def test_control_c_is_one_line_and_leaves_nothing(in_evaluated_run: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "files").mkdir()
    Image.fromarray(rng.integers(0, 255, (900, 900, 3), np.uint8)).save(tmp_path / "files/a.png")
    for number in range(4000):
        os.link(tmp_path / "files/a.png", tmp_path / f"files/{number}.png")
    process = start(["predict", "run", tmp_path / "files", "--output", tmp_path / "said.csv"], in_evaluated_run)
    while not list(tmp_path.glob(".said.csv.*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    ended = finish(process)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == "launcher: interrupted"
    assert "Traceback" not in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_a_full_disk_is_named_and_keeps_its_room(
    in_evaluated_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    words = ["predict", "run", str(tmp_path / "files"), "shards", "--output"]
    with mount_small(tmp_path / "disk", 4096) as disk:
        assert run([*words, str(disk / "said.jsonl")]) == 2
        line = capsys.readouterr().err.splitlines()[-1]
        assert line.startswith(f"launcher: no space left on the disk of {disk}/said.jsonl; make room")
        assert run([*words, str(tmp_path / "said.csv"), "--grid", str(disk / "said.png")]) == 2
        assert f"--grid {disk}/said.png: cannot be written (No space left on device)" in capsys.readouterr().err
        assert list(disk.iterdir()) == []


def test_each_of_several_writes_a_file_of_its_own(in_evaluated_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "said.csv"
    with open_output(output) as first, open_output(output) as second:
        first("of the first")
        second("second")
    assert output.read_text() == "of the first"
    assert list(tmp_path.iterdir()) == [output]


def test_two_processes_write_what_one_does(in_evaluated_run: Path, tmp_path: Path) -> None:
    """Three batches, so that one process has none in the second round; one unreadable picture for each process."""
    [path, *_] = write_files(in_evaluated_run / "shards", "test", tmp_path / "files")
    rng = np.random.default_rng(0)
    for number in range(70):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(tmp_path / f"files/{number:03d}.png")
    for number in (5, 40):
        (tmp_path / f"files/{number:03d}.png").write_bytes(path.read_bytes()[:100])
    said = {}
    for processes in (1, 2):
        output, grid = tmp_path / f"said-{processes}.jsonl", tmp_path / f"grid-{processes}.png"
        words: list[str | Path] = ["predict", "run", tmp_path / "files", "--output", output, "--grid", grid]
        ended = run_warm(ranks_of(processes), words, in_evaluated_run)
        assert ended.code == 1
        assert ended.out == ""
        for number in (5, 40):
            assert ended.err.count(f"{number:03d}.png") == 1
        assert "2 more cannot be read" in ended.err
        said[processes] = (output.read_bytes(), grid.read_bytes())
    assert said[1] == said[2]
    assert len(said[1][0].splitlines()) == 77
    refused = run_warm(ranks_of(2), ["predict", "run", tmp_path / "nothing.png"], in_evaluated_run)
    assert (refused.code, refused.err.count("\n")) == (2, 1)
