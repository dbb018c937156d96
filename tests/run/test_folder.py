from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launcher.errors import RunError
from launcher.recipe.fields import with_values
from launcher.recipe.lock import LOCK_NAME, flatten, write_lock
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from launcher.run.folder import FREE, RunFolder, debug_folder, open_run, read_summary
from launcher.run.journal import Journal
from tests.harness.runs import DIGITS
from tests.recipe.right import load

HOLD = """
import fcntl, sys
file = open(sys.argv[1], "w")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    """The right recipe, named `recipe`, in a folder of its own where `runs/` may be made."""
    monkeypatch.chdir(tmp_path)
    return load(tmp_path).recipe


def in_folder(recipe: Recipe, folder: Path | str) -> Recipe:
    return with_values(recipe, {"run.dir": str(folder)})


def seeded(recipe: Recipe, seed: int) -> Recipe:
    return with_values(recipe, {"run.seed": seed})


def start(recipe: Recipe, status: str | None = None) -> RunFolder:
    """The folder of a run that started, and ended with `status` unless it was cut off."""
    run = open_run(recipe)
    assert run.state == "new"
    write_lock(run.path, recipe, f"run {run.id}")
    journal = Journal(run.path, 10)
    journal.write("event", 0, name="started", wandb_id=run.id)
    journal.close()
    if status is not None:
        (run.path / "summary.json").write_text(json.dumps({"status": status}))
    run.release()
    return run


@contextmanager
def held_by_another_process(folder: Path) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder / ".in-use")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield
        process.communicate()


def test_a_new_run_gets_a_folder_named_after_the_recipe(recipe: Recipe) -> None:
    run = open_run(recipe)
    assert run.path.parent == Path("runs/recipe")
    assert (run.state, run.changes) == ("new", {})
    assert run.checkpoints.is_dir()
    assert run.logs.is_dir()
    assert run.pictures.is_dir()
    run.release()


def test_an_unfinished_run_resumes_under_its_id(recipe: Recipe) -> None:
    first = start(recipe)
    run = open_run(recipe)
    assert (run.path, run.id, run.state) == (first.path, first.id, "resumed")
    run.release()


def test_the_newest_unfinished_run_of_the_recipe_resumes(recipe: Recipe) -> None:
    old = start(in_folder(recipe, "runs/recipe/z-old"))
    new = start(in_folder(recipe, "runs/recipe/a-new"))
    other = start(seeded(recipe, 99))
    done = start(in_folder(recipe, "runs/recipe/done"), "done")
    for run, age_s in ((old, 300), (new, 200), (other, 100), (done, 0)):
        lock = run.path / "recipe.lock.yaml"
        os.utime(lock, (lock.stat().st_mtime - age_s,) * 2)
    found = open_run(recipe)
    assert (found.path, found.id) == (new.path, new.id)
    found.release()


def test_a_damaged_run_is_passed_over_and_not_locked(recipe: Recipe) -> None:
    first = start(recipe)
    (first.path / "recipe.lock.yaml").write_text("{")
    found = open_run(recipe)
    assert found.state == "new"
    found.release()
    with pytest.raises(RunError, match="cannot be read"):
        open_run(in_folder(recipe, first.path))
    with pytest.raises(RunError, match="cannot be read"):
        open_run(in_folder(recipe, first.path))


@pytest.mark.parametrize("status", ["done", "early_stopped"])
def test_a_finished_run_does_not_resume(recipe: Recipe, status: str) -> None:
    first = start(recipe, status)
    found = open_run(recipe)
    assert (found.state, found.path != first.path) == ("new", True)
    found.release()


@pytest.mark.parametrize("status", ["preempted", "failed"])
def test_a_run_that_was_cut_off_resumes(recipe: Recipe, status: str) -> None:
    first = start(recipe, status)
    run = open_run(recipe)
    assert (run.state, run.path) == ("resumed", first.path)
    run.release()


def test_a_named_folder_of_a_finished_run_is_finished(recipe: Recipe) -> None:
    start(in_folder(recipe, "here"), "done")
    run = open_run(in_folder(recipe, "here"))
    assert run.state == "finished"
    run.release()


def test_a_finished_run_resumes_with_an_allowed_change(recipe: Recipe) -> None:
    start(in_folder(recipe, "here"), "done")
    changed = in_folder(seeded(recipe, 99), "here")
    run = open_run(changed, allowed=("run.seed",))
    assert (run.state, run.changes) == ("resumed", {"run.seed": (3, 99)})
    run.release()


def test_a_changed_recipe_is_refused_with_advice(recipe: Recipe) -> None:
    start(in_folder(recipe, "here"))
    changed = in_folder(seeded(recipe, 99), "here")
    with pytest.raises(RunError) as raised:
        open_run(changed)
    assert str(raised.value) == (
        "here: its recipe has changed: run.seed 3 -> 99; "
        "add --allow-change run.seed to resume, or --fresh to start anew"
    )
    with pytest.raises(RunError, match=r"--allow-change run\.see: a recipe has no such key"):
        open_run(
            changed,
            allowed=(
                "run.see",
                "run.seed.x",
                "train",
            ),
        )
    run = open_run(in_folder(recipe, "here"))
    assert run.changes == {}
    run.release()


def test_a_changed_recipe_is_refused_without_a_named_folder_too(recipe: Recipe) -> None:
    begun = start(recipe)
    changed = with_values(recipe, {"train.patience": 7})
    with pytest.raises(RunError, match=r"its recipe has changed: train\.patience None -> 7; add --allow-change"):
        open_run(changed)
    run = open_run(changed, allowed=("train.patience",))
    assert (run.path, run.state) == (begun.path, "resumed")
    run.release()


def test_another_seed_is_another_run(recipe: Recipe) -> None:
    begun = start(recipe)
    run = open_run(seeded(recipe, 7))
    assert run.state == "new"
    assert run.path != begun.path
    run.release()


def test_the_recipe_of_a_failed_run_may_change(recipe: Recipe) -> None:
    start(recipe, "failed")
    changed = with_values(recipe, {"train.patience": 7})
    run = open_run(changed)
    assert run.state == "new"
    run.release()


def test_fresh_moves_aside_and_loses_nothing(recipe: Recipe, tmp_path: Path) -> None:
    first = start(in_folder(recipe, "here"), "done")
    (first.checkpoints / "weights").write_text("precious")
    run = open_run(in_folder(recipe, "here"), fresh=True)
    assert (run.state, run.path, list(run.checkpoints.iterdir())) == ("new", tmp_path / "here", [])
    assert run.id != first.id
    [aside] = tmp_path.glob("here.before-*")
    assert (aside / "checkpoints" / "weights").read_text() == "precious"
    assert read_summary(aside) == {"status": "done"}
    run.release()


def test_fresh_without_a_named_folder_leaves_the_unfinished_run_where_it_is(recipe: Recipe) -> None:
    first = start(recipe)
    run = open_run(recipe, fresh=True)
    assert (run.state, run.path != first.path, first.path.exists()) == ("new", True, True)
    run.release()


def test_a_run_moved_aside_does_not_resume(recipe: Recipe) -> None:
    start(in_folder(recipe, "runs/recipe/mine"))
    open_run(in_folder(recipe, "runs/recipe/mine"), fresh=True).release()
    run = open_run(recipe)
    assert run.state == "new"
    run.release()


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_in_use_by_another_process_is_refused(recipe: Recipe, fresh: bool) -> None:
    first = start(in_folder(recipe, "here"))
    with held_by_another_process(first.path), pytest.raises(RunError, match=r"here: another process is running it"):
        open_run(in_folder(recipe, "here"), fresh=fresh)
    run = open_run(in_folder(recipe, "here"))
    assert run.state == "resumed"
    run.release()


def test_a_new_folder_that_another_process_just_made_is_refused(recipe: Recipe) -> None:
    open_run(in_folder(recipe, "here")).release()
    with held_by_another_process(Path("here")), pytest.raises(RunError, match="another process is running it"):
        open_run(in_folder(recipe, "here"))


def test_a_running_run_is_passed_over_without_a_named_folder(recipe: Recipe) -> None:
    first = start(recipe)
    with held_by_another_process(first.path):
        run = open_run(recipe)
    assert (run.state, run.path != first.path) == ("new", True)
    run.release()


def test_a_folder_of_someone_else_is_refused_and_left_alone(recipe: Recipe) -> None:
    Path("theirs").mkdir()
    Path("theirs/thesis.tex").write_text("chapter 1")
    for fresh in (False, True):
        with pytest.raises(RunError, match=r"theirs: is not a run folder and not empty; choose another run.dir"):
            open_run(in_folder(recipe, "theirs"), fresh=fresh)
    assert [path.name for path in Path("theirs").iterdir()] == ["thesis.tex"]


def test_checkpoints_without_a_recipe_are_refused(recipe: Recipe) -> None:
    Path("here/checkpoints/step-00000001").mkdir(parents=True)
    with pytest.raises(RunError, match="is not a run folder and not empty"):
        open_run(in_folder(recipe, "here"))


def test_a_run_that_failed_before_its_recipe_was_locked_starts_again(recipe: Recipe) -> None:
    first = open_run(in_folder(recipe, "here"))
    Journal(first.path, 10).close()
    (first.path / f".{LOCK_NAME}.3f9a1c2d.half").write_text("run: {")  # killed while it was being locked
    first.release()
    run = open_run(in_folder(recipe, "here"))
    assert run.state == "new"
    run.release()


@pytest.mark.parametrize("folder", ["file", "file/below", "/proc/run", "half"])
def test_a_folder_that_cannot_be_made_is_refused(recipe: Recipe, folder: str) -> None:
    Path("file").write_text("")
    Path("half").mkdir()
    Path("half/logs").write_text("in the place of a folder")
    with pytest.raises(RunError, match=rf"^{folder}: cannot be made \(.+\); choose another run.dir$"):
        open_run(in_folder(recipe, folder))


def test_a_folder_that_cannot_be_written_is_refused(recipe: Recipe) -> None:
    Path("here/.in-use").mkdir(parents=True)  # as root every mode may be written: the same error by another way
    with pytest.raises(RunError, match=r"^here: cannot be written \(Is a directory\); choose another run.dir$"):
        open_run(in_folder(recipe, "here"))


def test_a_summary_that_is_missing_or_damaged_is_empty(tmp_path: Path) -> None:
    assert read_summary(tmp_path) == {}
    for text in ('{"status": "do', "[1]", "\udcff", "[" * 9000):
        (tmp_path / "summary.json").write_text(text, errors="surrogateescape")
        assert read_summary(tmp_path) == {}


def test_debug_runs_have_their_own_folders_and_do_not_resume(recipe: Recipe) -> None:
    folder = debug_folder(recipe)
    assert folder.parent == Path("runs/recipe")
    assert folder.name.startswith("debug-")
    assert debug_folder(recipe) != folder
    folder.mkdir(parents=True)
    write_lock(folder, recipe, "run")
    run = open_run(recipe)
    assert run.state == "new"
    run.release()


def test_a_run_keeps_its_backbone_whatever_is_allowed(recipe: Recipe) -> None:
    start(in_folder(recipe, "here"))
    changed = in_folder(with_values(recipe, {"backbone.freeze": "backbone"}), "here")
    with pytest.raises(RunError) as raised:
        open_run(changed, allowed=("backbone.freeze",))
    assert str(raised.value) == (
        "here: its recipe has changed: backbone.freeze 'none' -> 'backbone'; "
        "the backbone of a run cannot change: put it back to resume, or --fresh to start anew"
    )


def test_keys_that_do_not_change_the_training_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(DIGITS, ["run.dir=run"]).recipe
    first = open_run(recipe)
    write_lock(first.path, recipe, "test")
    first.release()
    changed = load_recipe(DIGITS, ["run.dir=run", "data.workers=7", "log.every=3st"]).recipe
    again = open_run(changed)
    assert (again.state, set(again.changes)) == ("resumed", {"data.workers", "log.every"})
    again.release()
    assert set(FREE) <= set(flatten(recipe.model_dump(mode="json")))
