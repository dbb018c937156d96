"""Commands on a finished run, by two processes: the same files as from one; one line for a mistake, then both end."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR
from tests.harness.runs import run as start
from tests.harness.two_runs import FOLDERS, RUNS, SPOILT, expect, launch, list_files

pytestmark = pytest.mark.timeout(150)
"""Nothing of this takes long: what hangs is to be seen."""

BAD = "spoilt/photos/{}/china/bad.jpg"
NONE = ": cannot be decoded (...); repair or remove it"
MISTAKES = {
    "evaluate runs/photoss": "runs/photoss: no such folder; ...; did you mean 'runs/photos'?",
    "predict bare/digits figures --output out.csv": "bare/digits: no checkpoint yet; train it first, or ...",
    "explain photos-shards photos": "photos-shards: neither a run's folder nor a checkpoint: ...; give a ...",
    "evaluate runs/digits --data figure": "--data figure: no such folder; ...; did you mean 'figures'?",
    "predict runs/photos photos photos/chin --output out.csv": "photos/chin: no such ...; did you mean 'photos/...",
    "explain runs/photos photos/flower/99.jpg": "photos/flower/99.jpg: no such file, folder or pattern...",
    "evaluate runs/photos --data figures": "figures: its classes are not the run's: missing china, ...; rename ...",
    "evaluate runs/digits --data photos-shards": "photos-shards: its classes are not the run's: ...; rename ...",
    "explain runs/digits figures --class china": "--class china: the run has no such class; valid: 0, 1, ...",
    "evaluate runs/photos --data spoilt/photos/text": BAD.format("text") + NONE,
    "evaluate runs/digits --data spoilt/digits/cut-off": "spoilt/digits/cut-off/0/bad.jpg" + NONE,
    "evaluate runs/photos --data spoilt/photos/empty": BAD.format("empty") + NONE,
    "export runs/photos --format hf": "export: runs as one process; start it without accelerate launch, ...",
}


@pytest.mark.parametrize(("words", "says"), MISTAKES.items(), ids=MISTAKES)
def test_a_mistake_is_one_line_of_both(two_runs: Path, words: str, says: str) -> None:
    expect(two_runs, words, says, processes=2)


@pytest.mark.parametrize("number", [9, 47])
def test_a_bad_picture_of_one_process_ends_both(two_runs: Path, tmp_path: Path, number: int) -> None:
    """In the first batch of the second, and in the last of all."""
    pictures = sorted((two_runs / "photos").glob("*/*"))
    for i, path in enumerate(pictures[:48]):
        file = tmp_path / "data" / path.parent.name / path.name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"" if i == number else path.read_bytes())
    bad = pictures[number].relative_to(two_runs / "photos")
    words = f"evaluate {two_runs}/runs/photos --data data --output judged"
    expect(tmp_path, words, f"data/{bad}{NONE}", processes=2)


def test_predict_names_what_either_cannot_read_once(two_runs: Path, tmp_path: Path) -> None:
    bad = [f"spoilt/photos/{kind}/china/bad.jpg" for kind in SPOILT]
    said = {}
    shutil.copytree(two_runs / "photos", tmp_path / "photos")
    for processes in (1, 2):
        output, grid = (tmp_path / f"{processes}.{ending}" for ending in ("csv", "png"))
        pictures: list[str | Path] = [bad[0], "photos", *bad[1:], tmp_path / "photos"]
        words = [*pictures, "--output", output, "--grid", grid]
        ended = launch(two_runs, "predict", "runs/photos", *words, processes=processes)
        assert ended.codes == (EXIT_FAILED,) * processes
        assert [ended.err.count(path) for path in bad] == [1, 1, 1]
        said[processes] = output.read_bytes(), grid.read_bytes()
    assert said[1] == said[2]
    ended = launch(two_runs, "predict", "runs/digits", *bad, "--output", tmp_path / "none.csv", processes=2)
    assert [ended.err.count(path) for path in bad] == [1, 1, 1]
    assert ended.err.count("3 of 3 images cannot be read, nothing is written; choose other images") == 1
    assert ended.codes == (EXIT_USER_ERROR,) * 2
    assert not (tmp_path / "none.csv").exists()


def test_explain_names_what_either_cannot_read_once(two_runs: Path, tmp_path: Path) -> None:
    bad = [f"spoilt/photos/{kind}/china/bad.jpg" for kind in SPOILT]
    words: list[str | Path] = [*bad, "photos/china/00.jpg", "--method", "gradcam", "--output", tmp_path / "heat"]
    ended = launch(two_runs, "explain", "runs/photos", *words, processes=2)
    assert ended.codes == (EXIT_FAILED,) * 2
    assert [ended.err.count(path) for path in bad] == [1, 1, 1]
    assert len(list((tmp_path / "heat").iterdir())) == 1


@pytest.mark.parametrize("run", RUNS)
def test_two_write_what_one_writes(two_runs: Path, tmp_path: Path, run: str) -> None:
    """Figures and predictions to the last digit, pictures byte by byte."""
    before = list_files(two_runs)
    for processes in (1, 2):
        output = tmp_path / f"of-{processes}"
        for words in (
            f"evaluate runs/{run} --output {output}",
            f"predict runs/{run} {run}-shards --flips --output {output}/out.jsonl",
            f"explain runs/{run} {FOLDERS[run]}/*/0[0-2].* --output {output}/heat",
        ):
            ended = launch(two_runs, *words.split(), processes=processes)
            assert ended.codes == (EXIT_DONE,) * processes, ended.err
    one, two = (read_output(tmp_path / f"of-{processes}") for processes in (1, 2))
    assert one.keys() == two.keys()
    assert [name for name in one if one[name] != two[name]] == []
    assert 0.2 < one["figures.json"]["accuracy"] < 1
    assert len(one["out.jsonl"].splitlines()) == {"digits": 1797, "photos": 48}[run]
    assert sum(name.startswith("heat/") for name in one) == {"digits": 10, "photos": 6}[run]
    assert list_files(two_runs) == before


def read_output(folder: Path) -> dict[str, Any]:
    """Every file, without how many processes have written it and when."""
    found: dict[str, Any] = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}
    found["figures.json"] = json.loads(found["figures.json"])["figures"]
    with np.load(folder / "predictions.npz") as kept:
        found["predictions.npz"] = {name: array.tolist() for name, array in kept.items()}
    return found


def test_a_mistake_is_one_line_under_accelerate(two_runs: Path, tmp_path: Path) -> None:
    """Whose own exit code is 1, and which adds words of its own."""
    words = shlex.split(f"evaluate runs/photos --data spoilt/photos/text --output {tmp_path}/evaluation")
    ended = start(*words, cwd=two_runs, processes=2, launcher="accelerate")
    assert ended.code == 1
    [line] = [line for line in ended.err.splitlines() if line.startswith("launcher: ")]
    assert line.startswith(f"launcher: {BAD.format('text')}: cannot be decoded (")
    assert [*tmp_path.iterdir()] == []
