"""Every command with wrong input, on a run of digits and one of photographs: one clear line, exit code 2, and nothing
written. The same on two processes: tests/multi/test_commands.py.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest

from launcher.errors import EXIT_DONE, EXIT_FAILED, EXIT_USER_ERROR
from tests.harness.two_runs import CLASSES, FOLDERS, RUNS, SPOILT, expect, launch, list_files

OTHER = {"digits": "photos", "photos": "digits"}
SHOWN = {"digits": "0, 1, 2, 3, 4 and 5 more", "photos": "china, flower"}
"""Classes in an error line."""
GIVE_A_RUN = "give a run's folder, runs/NAME/DATE-..., or one of its checkpoints"
SEARCH = "--search search.yaml"
LONG = "x" * 300


def wrong_runs(run: str) -> dict[str, str]:
    """A run that is misspelled, missing, a file, not a run, or without a checkpoint."""
    shards = f"{run}-shards"
    file, typo, hint = f"{FOLDERS[run]}/{CLASSES[run][0]}/00.*", f"runs/{run}s", f"did you mean 'runs/{run}'?"
    found: dict[str, str] = {}
    for command, more in {
        "evaluate": "",
        "predict": f" '{file}' --output predictions.csv",
        "explain": f" '{file}'",
        "export": " --format safetensors",
    }.items():
        found |= {
            f"{command} {typo}{more}": f"{typo}: no such folder; {GIVE_A_RUN}; {hint}",
            f"{command} {typo}/checkpoints/best{more}": "...; did you mean 'runs/" + run + "/checkpoints/best'?",
            f"{command} {LONG}{more}": f"{LONG}: File name too long; choose another",
            f"{command} else/where{more}": f"else/where: no such folder; {GIVE_A_RUN}",
            f"{command} search.yaml{more}": f"search.yaml: not a folder; {GIVE_A_RUN}",
            f"{command} {shards}{more}": f"{shards}: neither a run's folder nor a checkpoint: ...; {GIVE_A_RUN}",
            f"{command} bare/{run}{more}": f"bare/{run}: no checkpoint yet; train it first, or wait for ...",
            f"{command} runs/{run}{more} --checkpoint 7": "--checkpoint 7: no such checkpoint; valid: best, last, ...",
        }
    give, listed = "give folders that hold runs, or none for runs/", "give a run's folder, ...; launcher runs ..."
    return found | {
        f"watch {LONG}": f"{LONG}: File name too long; choose another",
        f"watch {typo}": f"{typo}: no such folder; {listed}; {hint}",
        "watch else/where": f"else/where: no such folder; {listed}",
        f"watch {shards}": f"{shards}: not a run folder; {listed}",
        f"runs {typo}": f"{typo}: no such folder; {give}; {hint}",
        "runs search.yaml": f"search.yaml: not a folder; {give}",
        f"compare runs/{run} {typo}": f"{typo}: no such run; ...",
        f"compare runs/{run} {shards}": f"{shards}: not a run folder: needs ...; give ...",
        f"tune {typo}/recipe.lock.yaml {SEARCH}": f"{typo}/recipe.lock.yaml: no such recipe...",
        f"tune runs/{run} {SEARCH}": f"runs/{run}: is a folder, not a recipe; ...runs/{run}/recipe.lock.yaml...",
    }


def wrong_data(run: str) -> dict[str, str]:
    """Images that are misspelled, missing, or of other classes."""
    here, lock, folder, other = f"runs/{run}", f"runs/{run}/recipe.lock.yaml", FOLDERS[run], FOLDERS[OTHER[run]]
    near, kinds = f"{folder}/{CLASSES[run][0]}", "give a folder of shards, or one with a folder for each class"
    missing = f"{near}x: no such file, folder or pattern; did you mean '{near}'?"
    not_the_runs = f"its classes are not the run's: missing {SHOWN[run]}; unknown {SHOWN[OTHER[run]]}; rename ..."
    anew = f"data.source=imagefolder:{folder} data.dir=anew data.split='{{train: rest}}' data.classes"
    return {
        f"evaluate {here} --data {folder}s": f"--data {folder}s: no such folder; {kinds}; did you mean '{folder}'?",
        f"evaluate {here} --data search.yaml": f"--data search.yaml: not a folder; {kinds}",
        f"evaluate {here} --data {near}": f"no images in class folders of {near}; expected CLASS/...",
        f"predict {here} {folder} {near}x --output predictions.csv --grid predictions.png": missing,
        f"explain {here} {folder} {near}x": missing,
        f"export {here} --format torchscript --data {near}x": missing,
        f"evaluate {here} --data {LONG}": f"{LONG}/manifest.json: File name too long; choose another",
        f"predict {here} {LONG}": f"{LONG}: File name too long; choose another",
        f"tune {lock} --search serch.yaml": "serch.yaml: no such file; did you mean 'search.yaml'?",
        f"tune {lock} --search photos/china/00.jpg": "photos/china/00.jpg: not UTF-8 text; name a YAML file ...",
        f"evaluate {here} --data {other}": f"{other}: {not_the_runs}",
        f"evaluate {here} --data {OTHER[run]}-shards": f"{OTHER[run]}-shards: {not_the_runs}",
        f"explain {here} {folder} --class wasp": "--class wasp: the run has no such class; valid: ...",
        f"tune {lock} {SEARCH} {anew}=[wasp,bee]": f"imagefolder:{folder}: no class 'wasp'; did you mean ...?",
    }


def unreadable_images(run: str) -> dict[str, str]:
    """Text, half a JPEG and an empty file with the names of images."""
    here, first = f"runs/{run}", CLASSES[run][0]
    found: dict[str, str] = {}
    for kind in SPOILT:
        folder, bad = f"spoilt/{run}/{kind}", f"spoilt/{run}/{kind}/{first}/bad.jpg"
        anew = f"data.source=imagefolder:{folder} data.dir=anew data.split='{{train: rest}}' data.classes=null"
        is_none = f"{bad}: cannot be decoded (...); repair or remove it"
        found |= {
            f"evaluate {here} --data {folder}": is_none,
            f"export {here} --format safetensors --data {folder}": is_none,
            f"tune {here}/recipe.lock.yaml {SEARCH} {anew}": f"train: {first}-bad-...; repair {bad}, or remove it",
        }
    return found


def cases(*tables: Mapping[str, str]) -> list[object]:
    return [pytest.param(words, message, id=words[:100]) for table in tables for words, message in table.items()]


@pytest.mark.parametrize(
    ("words", "message"), cases(*(table(run) for run in RUNS for table in (wrong_runs, wrong_data, unreadable_images)))
)
def test_mistake_is_one_line_and_nothing_is_written(two_runs: Path, words: str, message: str) -> None:
    expect(two_runs, words, message)


@pytest.mark.parametrize("run", RUNS)
def test_predict_names_unreadable_images(two_runs: Path, tmp_path: Path, run: str) -> None:
    """Beside readable images the exit code is 1; alone it is 2 and nothing is written."""
    bad = [f"spoilt/{run}/{kind}/{CLASSES[run][0]}/bad.jpg" for kind in SPOILT]
    before, output = list_files(two_runs), tmp_path / "predictions.jsonl"
    ended = launch(two_runs, "predict", f"runs/{run}", *bad, "--output", output, "--grid", tmp_path / "predictions.png")
    lines = [line for line in ended.err.splitlines() if line.startswith("launcher: ")]
    assert (ended.code, ended.out, len(lines)) == (EXIT_USER_ERROR, "", len(bad) + 1)
    for path in bad:
        [line] = [line for line in lines if line.startswith(f"launcher: {path}: cannot be decoded (")]
        assert line.endswith("); repair or remove it")
    assert lines[-1] == "launcher: 3 of 3 images cannot be read, nothing is written; choose other images"
    assert list(tmp_path.iterdir()) == []
    ended = launch(two_runs, "predict", f"runs/{run}", FOLDERS[run], *bad, "--output", output)
    assert ended.code == EXIT_FAILED
    assert all(ended.err.count(path) == 1 for path in bad)
    known = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(known) == len(list((two_runs / FOLDERS[run]).glob("*/*")))
    assert {line["truth"] for line in known} == {*CLASSES[run]}
    assert list_files(two_runs) == before


def test_run_without_its_data_asks_for_other_images(two_runs: Path, tmp_path: Path) -> None:
    """Data are looked up in the working directory of the command."""
    gone = "...; or choose other images of the same classes with --data"
    expect(
        tmp_path, f"evaluate {two_runs}/runs/photos --output evaluated", f"imagefolder: photos is not a folder; {gone}"
    )
    export = f"export {two_runs}/runs/photos --format safetensors --output network"
    expect(tmp_path, export, "photos-shards: no manifest.json here; ...; or give a folder of images ... with --data")
    shutil.copytree(two_runs / "photos-shards", tmp_path / "photos-shards")
    [tar] = tmp_path.glob("photos-shards/test-*.tar")
    tar.unlink()
    gone = f"photos-shards/{tar.name}: cannot be opened (No such file or directory); run 'python -m shards check ...'"
    expect(tmp_path, f"evaluate {two_runs}/runs/photos --output evaluated", gone)
    expect(tmp_path, export, gone)
    ended = launch(tmp_path, "predict", two_runs / "runs/photos", "photos-shards", "--output", "predictions.csv")
    assert (ended.code, ended.err.count("cannot be opened")) == (EXIT_FAILED, 1)
    assert "skipped 12 unreadable images" in ended.err


@pytest.mark.parametrize("run", RUNS)
def test_explain_names_unreadable_images(two_runs: Path, tmp_path: Path, run: str) -> None:
    """Beside readable images the exit code is 1; alone it is 2 and nothing is written."""
    bad = [f"spoilt/{run}/{kind}/{CLASSES[run][0]}/bad.jpg" for kind in SPOILT]
    good, heat = next((two_runs / FOLDERS[run]).glob("*/*")), tmp_path / "heat"
    options = ("--method", "gradcam", "--output", heat)
    ended = launch(two_runs, "explain", f"runs/{run}", *bad, *options)
    lines = [line for line in ended.err.splitlines() if line.startswith("launcher: ")]
    assert (ended.code, ended.out, len(lines)) == (EXIT_USER_ERROR, "", len(bad) + 1)
    for path, line in zip(bad, lines, strict=False):
        assert line.startswith(f"launcher: {path}: cannot be decoded (")
        assert line.endswith("); repair or remove it")
    assert lines[-1] == "launcher: 3 of 3 images cannot be read, nothing is written; choose other images"
    assert not heat.exists()
    ended = launch(two_runs, "explain", f"runs/{run}", *bad, good, *options)
    assert (ended.code, len(list(heat.iterdir()))) == (EXIT_FAILED, 1)
    assert all(ended.err.count(path) == 1 for path in bad)
    assert "1 image explained by gradcam, the predicted class of each; skipped 3 unreadable images" in ended.out


@pytest.mark.parametrize("run", RUNS)
def test_commands_work_without_checkpoint_and_with_other_classes(two_runs: Path, tmp_path: Path, run: str) -> None:
    """Runs without a checkpoint are listed, runs of different classes compared, images of any class predicted."""
    before = list_files(two_runs)
    for words in (
        ["runs", f"bare/{run}"],
        ["watch", f"bare/{run}", "--once"],
        ["watch", f"runs/{run}"],
        ["compare", f"bare/{run}", "runs/photos", "runs/digits", "--html", tmp_path / "report.html"],
        ["predict", f"runs/{run}", FOLDERS[OTHER[run]], "--output", tmp_path / "predictions.jsonl"],
    ):
        ended = launch(two_runs, *words)
        assert ended.code == EXIT_DONE, ended.err
    assert {json.loads(line)["truth"] for line in (tmp_path / "predictions.jsonl").read_text().splitlines()} == {None}
    assert launch(two_runs, "runs", f"{run}-shards").out == f"{run}-shards: no runs; launcher RECIPE starts one\n"
    assert list_files(two_runs) == before


@pytest.mark.parametrize("format_name", ["torchscript", "onnx", "safetensors", "hf"])
def test_export_of_a_run_of_photographs(two_runs: Path, tmp_path: Path, format_name: str) -> None:
    ended = launch(two_runs, "export", "runs/photos", "--format", format_name, "--output", tmp_path / "network")
    assert ended.code == EXIT_DONE, ended.err
    assert f"{format_name} of step-" in ended.out
