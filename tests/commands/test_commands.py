"""What may go wrong with a finished run, of digits and of photographs: of each verb one clear line, exit code 2, and
nothing written. The same on two processes: tests/multi/test_verbs.py.
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
    """Misspelled, not there, a file, no run, without a checkpoint."""
    shards = f"{run}-shards"
    file, typo, hint = f"{FOLDERS[run]}/{CLASSES[run][0]}/00.*", f"runs/{run}s", f"did you mean 'runs/{run}'?"
    found: dict[str, str] = {}
    for verb, more in {
        "evaluate": "",
        "predict": f" '{file}' --output said.csv",
        "explain": f" '{file}'",
        "export": " --format safetensors",
    }.items():
        found |= {
            f"{verb} {typo}{more}": f"{typo}: no such folder; {GIVE_A_RUN}; {hint}",
            f"{verb} {typo}/checkpoints/best{more}": "...; did you mean 'runs/" + run + "/checkpoints/best'?",
            f"{verb} {LONG}{more}": f"{LONG}: File name too long; name another",
            f"{verb} else/where{more}": f"else/where: no such folder; {GIVE_A_RUN}",
            f"{verb} search.yaml{more}": f"search.yaml: is no folder; {GIVE_A_RUN}",
            f"{verb} {shards}{more}": f"{shards}: neither a run's folder nor a checkpoint: has no ...; {GIVE_A_RUN}",
            f"{verb} bare/{run}{more}": f"bare/{run}: has no checkpoint yet; train it first, or wait for ...",
            f"{verb} runs/{run}{more} --checkpoint 7": "--checkpoint 7: there are best, last, ...",
        }
    give, listed = "give folders that hold runs, or none for runs/", "give a run's, ...; launcher runs lists them"
    return found | {
        f"watch {LONG}": f"{LONG}: File name too long; name another",
        f"watch {typo}": f"{typo}: no such folder; {listed}; {hint}",
        "watch else/where": f"else/where: no such folder; {listed}",
        f"watch {shards}": f"{shards}: no run's folder; {listed}",
        f"runs {typo}": f"{typo}: no such folder; {give}; {hint}",
        "runs search.yaml": f"search.yaml: is no folder; {give}",
        f"compare runs/{run} {typo}": f"{typo}: no such run; ...",
        f"compare runs/{run} {shards}": f"{shards}: no run's folder: needs ...; give ...",
        f"tune {typo}/recipe.lock.yaml {SEARCH}": f"{typo}/recipe.lock.yaml: no such recipe...",
        f"tune runs/{run} {SEARCH}": f"runs/{run}: is a folder, not a recipe; ...runs/{run}/recipe.lock.yaml...",
    }


def wrong_data(run: str) -> dict[str, str]:
    """Pictures that are misspelled, not there, or of other classes."""
    here, lock, folder, other = f"runs/{run}", f"runs/{run}/recipe.lock.yaml", FOLDERS[run], FOLDERS[OTHER[run]]
    near, kinds = f"{folder}/{CLASSES[run][0]}", "name one of shards, or one with a folder for each class"
    missing = f"{near}x: no such file, folder or pattern; did you mean '{near}'?"
    not_the_runs = f"its classes are not the run's: without {SHOWN[run]}; beside them {SHOWN[OTHER[run]]}; rename ..."
    anew = f"data.source=imagefolder:{folder} data.dir=anew data.split='{{train: rest}}' data.classes"
    return {
        f"evaluate {here} --data {folder}s": f"--data {folder}s: no such folder; {kinds}; did you mean '{folder}'?",
        f"evaluate {here} --data search.yaml": f"--data search.yaml: is no folder; {kinds}",
        f"evaluate {here} --data {near}": f"no images in class folders of {near}; wanted CLASS/...",
        f"predict {here} {folder} {near}x --output said.csv --grid said.png": missing,
        f"explain {here} {folder} {near}x": missing,
        f"export {here} --format torchscript --data {near}x": missing,
        f"evaluate {here} --data {LONG}": f"{LONG}/manifest.json: File name too long; name another",
        f"predict {here} {LONG}": f"{LONG}: File name too long; name another",
        f"tune {lock} --search serch.yaml": "serch.yaml: no such file; did you mean 'search.yaml'?",
        f"tune {lock} --search photos/china/00.jpg": "photos/china/00.jpg: is no text; name the YAML file ...",
        f"evaluate {here} --data {other}": f"{other}: {not_the_runs}",
        f"evaluate {here} --data {OTHER[run]}-shards": f"{OTHER[run]}-shards: {not_the_runs}",
        f"explain {here} {folder} --class wasp": "--class wasp: the run has no such class; valid: ...",
        f"tune {lock} {SEARCH} {anew}=[wasp,bee]": f"imagefolder:{folder}: no class 'wasp'; did you mean ...?",
    }


def no_pictures(run: str) -> dict[str, str]:
    """Text, half a JPEG and an empty file, named as pictures are."""
    here, first = f"runs/{run}", CLASSES[run][0]
    found: dict[str, str] = {}
    for kind in SPOILT:
        folder, bad = f"spoilt/{run}/{kind}", f"spoilt/{run}/{kind}/{first}/bad.jpg"
        anew = f"data.source=imagefolder:{folder} data.dir=anew data.split='{{train: rest}}' data.classes=null"
        is_none = f"{bad}: cannot be decoded (...); mend it, or leave it out"
        found |= {
            f"evaluate {here} --data {folder}": is_none,
            f"export {here} --format safetensors --data {folder}": is_none,
            f"tune {here}/recipe.lock.yaml {SEARCH} {anew}": f"train: {first}-bad-...; mend {bad}, or take it away",
        }
    return found


def cases(*tables: Mapping[str, str]) -> list[object]:
    return [pytest.param(words, says, id=words[:100]) for table in tables for words, says in table.items()]


@pytest.mark.parametrize(
    ("words", "says"), cases(*(table(run) for run in RUNS for table in (wrong_runs, wrong_data, no_pictures)))
)
def test_a_mistake_is_one_line_and_nothing_is_written(two_runs: Path, words: str, says: str) -> None:
    expect(two_runs, words, says)


@pytest.mark.parametrize("run", RUNS)
def test_predict_names_what_it_cannot_read(two_runs: Path, tmp_path: Path, run: str) -> None:
    """Beside pictures the others go on, exit code 1; alone, nothing is written."""
    bad = [f"spoilt/{run}/{kind}/{CLASSES[run][0]}/bad.jpg" for kind in SPOILT]
    before, output = list_files(two_runs), tmp_path / "said.jsonl"
    ended = launch(two_runs, "predict", f"runs/{run}", *bad, "--output", output, "--grid", tmp_path / "said.png")
    lines = [line for line in ended.err.splitlines() if line.startswith("launcher: ")]
    assert (ended.code, ended.out, len(lines)) == (EXIT_USER_ERROR, "", len(bad) + 1)
    for path in bad:
        [line] = [line for line in lines if line.startswith(f"launcher: {path}: cannot be decoded (")]
        assert line.endswith("); mend it, or leave it out")
    assert lines[-1] == "launcher: 3 of 3 pictures cannot be read: nothing is written; name others"
    assert list(tmp_path.iterdir()) == []
    ended = launch(two_runs, "predict", f"runs/{run}", FOLDERS[run], *bad, "--output", output)
    assert ended.code == EXIT_FAILED
    assert all(ended.err.count(path) == 1 for path in bad)
    known = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(known) == len(list((two_runs / FOLDERS[run]).glob("*/*")))
    assert {line["truth"] for line in known} == {*CLASSES[run]}
    assert list_files(two_runs) == before


def test_a_run_whose_data_are_gone_wants_others(two_runs: Path, tmp_path: Path) -> None:
    """They are looked for where the command is given."""
    gone = "...; or name pictures of the same classes with --data"
    expect(tmp_path, f"evaluate {two_runs}/runs/photos --output judged", f"imagefolder: photos is not a folder; {gone}")
    export = f"export {two_runs}/runs/photos --format safetensors --output network"
    expect(tmp_path, export, "photos-shards: no manifest.json here; ...; or name a folder of pictures ... with --data")
    shutil.copytree(two_runs / "photos-shards", tmp_path / "photos-shards")
    [tar] = tmp_path.glob("photos-shards/test-*.tar")
    tar.unlink()
    gone = f"photos-shards/{tar.name}: cannot be opened (No such file or directory); run 'python -m shards check ...'"
    expect(tmp_path, f"evaluate {two_runs}/runs/photos --output judged", gone)
    expect(tmp_path, export, gone)
    ended = launch(tmp_path, "predict", two_runs / "runs/photos", "photos-shards", "--output", "said.csv")
    assert (ended.code, ended.err.count("cannot be opened")) == (EXIT_FAILED, 1)
    assert "12 more cannot be read" in ended.err


@pytest.mark.parametrize("run", RUNS)
def test_explain_names_what_it_cannot_read(two_runs: Path, tmp_path: Path, run: str) -> None:
    """As predict does: beside pictures the others go on, exit code 1; alone, nothing is written."""
    bad = [f"spoilt/{run}/{kind}/{CLASSES[run][0]}/bad.jpg" for kind in SPOILT]
    good, heat = next((two_runs / FOLDERS[run]).glob("*/*")), tmp_path / "heat"
    options = ("--method", "gradcam", "--output", heat)
    ended = launch(two_runs, "explain", f"runs/{run}", *bad, *options)
    lines = [line for line in ended.err.splitlines() if line.startswith("launcher: ")]
    assert (ended.code, ended.out, len(lines)) == (EXIT_USER_ERROR, "", len(bad) + 1)
    for path, line in zip(bad, lines, strict=False):
        assert line.startswith(f"launcher: {path}: cannot be decoded (")
        assert line.endswith("); mend it, or leave it out")
    assert lines[-1] == "launcher: 3 of 3 pictures cannot be read: nothing is written; name others"
    assert not heat.exists()
    ended = launch(two_runs, "explain", f"runs/{run}", *bad, good, *options)
    assert (ended.code, len(list(heat.iterdir()))) == (EXIT_FAILED, 1)
    assert all(ended.err.count(path) == 1 for path in bad)
    assert "1 pictures explained by gradcam, the predicted class of each, 3 more cannot be read" in ended.out


@pytest.mark.parametrize("run", RUNS)
def test_what_needs_no_checkpoint_and_no_classes_goes_well(two_runs: Path, tmp_path: Path, run: str) -> None:
    """Runs without a checkpoint are looked at, runs of different classes compared, any pictures named."""
    before = list_files(two_runs)
    for words in (
        ["runs", f"bare/{run}"],
        ["watch", f"bare/{run}", "--once"],
        ["watch", f"runs/{run}"],
        ["compare", f"bare/{run}", "runs/photos", "runs/digits", "--html", tmp_path / "report.html"],
        ["predict", f"runs/{run}", FOLDERS[OTHER[run]], "--output", tmp_path / "said.jsonl"],
    ):
        ended = launch(two_runs, *words)
        assert ended.code == EXIT_DONE, ended.err
    assert {json.loads(line)["truth"] for line in (tmp_path / "said.jsonl").read_text().splitlines()} == {None}
    assert launch(two_runs, "runs", f"{run}-shards").out == f"{run}-shards: no runs; launcher RECIPE makes one\n"
    assert list_files(two_runs) == before


@pytest.mark.parametrize("format_name", ["torchscript", "onnx", "safetensors", "hf"])
def test_a_run_of_photographs_is_exported(two_runs: Path, tmp_path: Path, format_name: str) -> None:
    ended = launch(two_runs, "export", "runs/photos", "--format", format_name, "--output", tmp_path / "network")
    assert ended.code == EXIT_DONE, ended.err
    assert f"{format_name} of step-" in ended.out
