"""Searches as a user starts them: real trainings, killed and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from launcher.commands.jobs.tune.optimiser import DONE, Optimiser, Trial
from launcher.commands.jobs.tune.search import Search
from launcher.recipe.parse import load_recipe
from launcher.run.folder import read_summary
from launcher.run.lock_file import claim, is_running
from tests.harness.runs import DIGITS, Ended, events, finish, journal, launch, wait_until

SEARCH = """\
trials: 12
start: 5
search:
  optim.lr: {low: 1.0e-4, high: 3.0e-2, log: true}
  optim.beta1: {low: 0.5, high: 0.99}
"""
QUICK = ("train.epochs=2", "log.wandb.mode=disabled", "data.workers=0", "checkpoint.every=null")
FOLDER = Path("runs/lenet_digits-s")
SEARCH_S = 600
"""Deadline of twelve trainings, each with the start of a process, on a machine that runs other tests, too."""


def begin(workdir: Path, *words: str, text: str = SEARCH) -> subprocess.Popen[str]:
    (workdir / "s.yaml").write_text(text)
    return launch(["tune", DIGITS, *QUICK, *words, "--search", "s.yaml"], workdir)


def read_trials(workdir: Path) -> list[Trial]:
    kept = json.loads((workdir / FOLDER / "search.json").read_text())
    search = Search.model_validate_json(json.dumps({key: kept[key] for key in Search.model_fields}))
    return Optimiser(workdir / FOLDER, search).trials()


def has_summary(workdir: Path, number: int) -> bool:
    return bool(read_summary(workdir / FOLDER / f"trial-{number:03d}"))


@pytest.mark.timeout(2 * SEARCH_S)
def test_search_killed_after_five_trials_resumes_and_beats_the_recipe(tmp_path: Path) -> None:
    process = begin(tmp_path)
    sixth = tmp_path / FOLDER / "trial-005/journal.jsonl"
    wait_until(lambda: has_summary(tmp_path, 4) and sixth.exists(), process, SEARCH_S)
    process.kill()
    process.communicate()
    before = read_trials(tmp_path)
    assert [trial.status for trial in before] == [DONE] * 5 + ["RUNNING"]
    journals = [tmp_path / FOLDER / f"trial-{number:03d}/journal.jsonl" for number in range(5)]
    written_ns = [path.stat().st_mtime_ns for path in journals]

    ended = finish(begin(tmp_path), SEARCH_S)
    assert ended.code == 0, ended.err
    trials = read_trials(tmp_path)
    assert [path.stat().st_mtime_ns for path in journals] == written_ns  # none of them was trained again
    assert [trial.values for trial in trials[:6]] == [trial.values for trial in before]
    assert [trial.status for trial in trials] == [DONE] * 12
    for trial in trials:  # each is a run of its own; its best validation is its score
        folder = tmp_path / FOLDER / f"trial-{trial.number:03d}"
        summary = read_summary(folder)
        assert (summary["status"], summary["best"]["value"]) == ("done", pytest.approx(trial.score))
        lock = load_recipe(folder / "recipe.lock.yaml").recipe
        assert {"optim.lr": lock.optim.lr, "optim.beta1": lock.optim.beta1} == trial.values  # type: ignore[union-attr]
        assert (lock.run.name, lock.log.wandb.job_type) == ("lenet_digits-s", "tune")
    best = max(trials, key=lambda trial: trial.score or 0)
    assert trials[0].proposed_by == "recipe"
    assert (best.score or 0) > (trials[0].score or 0) + 0.02
    recipe = load_recipe(tmp_path / FOLDER / "best.yaml").recipe
    assert recipe.optim.lr == best.values["optim.lr"]
    assert recipe.train.epochs.value == 2
    assert f"{best.number} best" in ended.out
    for name in ("best-so-far", "optim.lr-optim.beta1"):
        with Image.open(tmp_path / FOLDER / f"pictures/{name}.png") as picture:
            assert picture.width > 400


def test_stopped_search_leaves_no_process_and_can_be_resumed(tmp_path: Path) -> None:
    process = begin(tmp_path, "train.epochs=200")
    folder = tmp_path / FOLDER / "trial-000"
    wait_until(lambda: (folder / "checkpoints/last").exists(), process)
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert (ended.code, ended.err.splitlines()[-1]) == (
        75,
        "launcher: stopped while searching; the same command resumes the search",
    )
    assert read_summary(folder)["status"] == "preempted"
    assert not is_running(folder, has_ended=False)


def test_trials_run_in_parallel_and_end_early(tmp_path: Path) -> None:
    """Half of the learning rates are far too small: after five trials, a trial with such a rate ends early."""
    text = "trials: 9\nstart: 9\nstop_early: true\nsearch:\n  optim.lr: {low: 1.0e-7, high: 0.03, log: true}\n"
    ended = finish(begin(tmp_path, "train.epochs=20", "--parallel", "2", text=text))
    assert ended.code == 0, ended.err
    trials = read_trials(tmp_path)
    early = [trial for trial in trials if trial.status == "EARLY_STOPPED"]
    done = [trial for trial in trials if trial.status == DONE]
    assert early
    assert len(early) + len(done) == 9
    assert max(float(trial.values["optim.lr"]) for trial in early) < 1e-3
    assert ended.out.count("ended early") == len(early)
    journals = [tmp_path / FOLDER / f"trial-{number:03d}/journal.jsonl" for number in (0, 1)]
    first_end_s = journals[0].stat().st_mtime
    assert journal(journals[1].parent)[0]["time_s"] < first_end_s


def test_grid_ends_the_search(tmp_path: Path) -> None:
    text = "trials: 6\nsearch:\n  train.global_batch: [32, 16]\n"
    for _ in range(2):  # the second time nothing is left to do
        ended = finish(begin(tmp_path, "train.epochs=1", text=text))
        assert ended.code == 0, ended.err
        assert "note: there are only 2 different trials, not 6: each runs once" in ended.out
        assert "proposed by" in ended.out
    trials = read_trials(tmp_path)
    assert [(trial.values["train.global_batch"], trial.status) for trial in trials] == [(32, DONE), (16, DONE)]
    assert (tmp_path / FOLDER / "best.yaml").exists()
    assert (tmp_path / FOLDER / "pictures/best-so-far.png").exists()


def test_three_failed_trials_end_the_search(tmp_path: Path) -> None:
    text = "search:\n  optim.lr: {low: 1.0e+30, high: 1.0e+35, log: true}\n"
    ended = finish(begin(tmp_path, text=text))
    assert ended.code == 2
    assert "the recipe's own optim.lr, 0.002, is outside the search: it gets no trial" in ended.out
    assert "3 trials have failed and none is done; the last error: rank 0 ended with exit code " in ended.err
    assert [trial.status for trial in read_trials(tmp_path)] == ["FAILED"] * 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--parallel", "0"], "--parallel 0: must be at least 1"),
        (
            ["data.split={train: 0.8, test: rest}"],
            "a search compares trials on the valid split, which the data does not have",
        ),
        (["optim.lrr=1"], "optim.lrr: unknown key; did you mean 'lr'?"),
    ],
)
def test_mistake_is_one_line(tmp_path: Path, words: list[str], message: str) -> None:
    ended = finish(begin(tmp_path, *words))
    assert ended.code == 2
    assert message in ended.err.splitlines()[-1]
    assert "Traceback" not in ended.err
    assert not (tmp_path / "runs").exists()


def test_damaged_search_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(parents=True)
    for text in ("{", '{"seed": 7}'):
        (tmp_path / FOLDER / "search.json").write_text(text)
        ended = finish(begin(tmp_path))
        assert (ended.code, "search.json: damaged" in ended.err) == (2, True), ended.err


ONE = "trials: 1\nsearch:\n  optim.lr: {low: 1.0e-4, high: 3.0e-2, log: true}\n"
CHANGED = f"when the search in {FOLDER} began; restore it, or start another search with --folder"


def test_resumed_search_keeps_its_recipe_and_ranges(tmp_path: Path) -> None:
    recipe = tmp_path / "photo.yaml"
    recipe.write_text(DIGITS.read_text())
    (tmp_path / "s.yaml").write_text(ONE)

    def search(*words: str) -> Ended:
        folder = ("--search", "s.yaml", "--folder", str(FOLDER))
        return finish(launch(["tune", "photo.yaml", *QUICK, *words, *folder], tmp_path))

    assert search().code == 0
    kept = (tmp_path / FOLDER / "search.json").read_bytes()
    recipe.write_text(DIGITS.read_text().replace("global_batch: 32", "global_batch: 16"))
    line = 1 + DIGITS.read_text().splitlines().index("  global_batch: 32")
    (tmp_path / "s.yaml").write_text(ONE.replace("3.0e-2", "0.5") + "  optim.beta1: [0.5, 0.9]\n")
    refused = search("optim.weight_decay=0.1")
    domain = "{low: 0.0001, high: %s, log: true}"
    assert refused.code == 2
    assert [line.removeprefix("launcher: ") for line in refused.err.splitlines()] == [
        f"command line: optim.weight_decay: 0.1, but 0.0 {CHANGED}",
        f"photo.yaml:{line}: train.global_batch: 16, but 32 {CHANGED}",
        f"s.yaml:3: search.optim.lr: {domain % 0.5}, but {domain % 0.03} {CHANGED}",
        f"s.yaml:4: search.optim.beta1: [0.5, 0.9], but not there {CHANGED}",
    ]
    assert (tmp_path / FOLDER / "search.json").read_bytes() == kept
    recipe.write_text(DIGITS.read_text())
    (tmp_path / "s.yaml").write_text(ONE.replace("trials: 1", "trials: 2"))
    assert search("log.every=5st").code == 0  # more trials, and a key that does not change the training
    assert [trial.status for trial in read_trials(tmp_path)] == [DONE] * 2


def test_recipe_edited_during_the_search_changes_no_trial(tmp_path: Path) -> None:
    recipe = tmp_path / "photo.yaml"
    recipe.write_text(DIGITS.read_text())
    (tmp_path / "s.yaml").write_text(ONE.replace("trials: 1", "trials: 2"))
    words = ["tune", "photo.yaml", *QUICK, "--search", "s.yaml", "--folder", str(FOLDER)]
    process = launch(words, tmp_path)
    wait_until(lambda: (tmp_path / FOLDER / "trial-000/journal.jsonl").exists(), process)
    recipe.write_text(DIGITS.read_text().replace("global_batch: 32", "global_batch: 16"))
    assert finish(process).code == 0
    files = [tmp_path / FOLDER / name for name in ("trial-001/recipe.lock.yaml", "best.yaml")]
    assert [load_recipe(file).recipe.train.global_batch for file in files] == [32, 32]


def test_second_process_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    first = begin(tmp_path, "train.epochs=200")
    wait_until(lambda: (tmp_path / FOLDER / "trial-000/journal.jsonl").exists(), first)
    state = (tmp_path / FOLDER / "optimiser.json").read_bytes()
    second = finish(begin(tmp_path, "train.epochs=200"))
    assert (second.code, second.err) == (
        2,
        f"launcher: {FOLDER}: another process is running it; wait for it, or choose another --folder\n",
    )
    assert "Traceback" not in second.err
    assert (tmp_path / FOLDER / "optimiser.json").read_bytes() == state
    assert first.poll() is None
    first.kill()
    first.communicate()
    os.close(claim(tmp_path / FOLDER))  # at once, though its trial may still be saving


def test_only_trial_that_fails_ends_the_search(tmp_path: Path) -> None:
    ended = finish(begin(tmp_path, text="trials: 1\nsearch:\n  optim.lr: {low: 1.0e+30, high: 1.0e+35, log: true}\n"))
    assert ended.code == 2
    assert "the only trial has failed and none is done; the last error: rank 0 ended with exit code " in ended.err


def test_search_killed_before_it_wrote_its_file_begins_again(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / ".search.json.3f9a1c2d.half").write_text("{")
    in_use = claim(tmp_path / FOLDER)
    ended = finish(begin(tmp_path))
    assert (ended.code, "another process is running it" in ended.err) == (2, True), ended.err
    os.close(in_use)
    process = begin(tmp_path)
    wait_until(lambda: (tmp_path / FOLDER / "optimiser.json").exists(), process)
    process.terminate()
    assert finish(process).code == 75


def test_folder_without_a_search_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir(parents=True)
    (tmp_path / FOLDER / "notes.txt").touch()
    ended = finish(begin(tmp_path))
    assert (ended.code, "is not a search's folder and not empty" in ended.err) == (2, True), ended.err


def test_trials_with_the_same_frozen_part_compute_its_features_once(tmp_path: Path) -> None:
    text = "trials: 2\nsearch:\n  optim.lr: {low: 1.0e-4, high: 0.03, log: true}\n"
    words = ("backbone.freeze=backbone", "augment.train=[{op: resize, size: [32, 32]}]")
    assert finish(begin(tmp_path, *words, text=text)).code == 0
    folders = [tmp_path / FOLDER / f"trial-{number:03d}" for number in (0, 1)]
    messages = [" ".join(event["message"] for event in events(folder, "frozen_part")) for folder in folders]
    assert [text.count(": computing ") for text in messages] == [3, 0]
    assert [text.count(": read from ") for text in messages] == [0, 3]
