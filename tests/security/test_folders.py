"""Folders that others can write to: a run follows no link out of its folder, and leaves no file that all may change."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from launcher.commands.runs.feature_cache import remove_features
from launcher.data.features.format import METADATA_NAME, Layout, Value, commit_features, open_features
from launcher.errors import RunError, UserError
from launcher.recipe.fields import with_values
from launcher.recipe.lock import write_lock
from launcher.recipe.schema import Recipe
from launcher.run.folder import open_run
from launcher.run.journal import Journal
from shards.files import write_atomically
from tests.harness.runs import DIGITS, train
from tests.recipe.right import load

INSIDE = ("checkpoints", "logs", "pictures", "wandb", "recipe.lock.yaml", "journal.jsonl", "summary.json", ".in-use")
LAYOUT = Layout((Value("float32", (2,)),), 1, 1)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    monkeypatch.chdir(tmp_path)
    return with_values(load(tmp_path).recipe, {"run.dir": "run"})


@pytest.fixture
def precious(tmp_path: Path) -> Path:
    """Another user's folder, with a file in it."""
    folder = tmp_path / "precious"
    folder.mkdir()
    (folder / "file").write_text("kept")
    return folder


def assert_untouched(precious: Path) -> None:
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert (precious / "file").read_text() == "kept"


def begin(recipe: Recipe, run_id: str = "abcd1234") -> Path:
    run = open_run(recipe)
    write_lock(run.path, recipe, "a run")
    journal = Journal(run.path, steps_per_epoch=1)
    journal.write("event", 0, name="started", wandb_id=run_id)
    journal.close()
    run.release()
    return run.path


@pytest.mark.parametrize("name", INSIDE)
def test_new_run_writes_through_no_link(recipe: Recipe, precious: Path, name: str) -> None:
    Path("run").mkdir()
    (Path("run") / name).symlink_to(precious if "." not in name else precious / "file")
    with pytest.raises(RunError, match=r"run.*; choose another run\.dir|is a link, |recipe\.lock\.yaml"):
        open_run(recipe)
    assert_untouched(precious)


@pytest.mark.parametrize("name", [*INSIDE, "logs/rank-0.log", "pictures/augmented.png", "checkpoints/best"])
def test_resumed_run_writes_through_no_link(recipe: Recipe, precious: Path, name: str) -> None:
    path = begin(recipe) / name
    if path.is_dir():
        path.rmdir()
    path.unlink(missing_ok=True)
    path.symlink_to(precious if path.suffix == "" else precious / "file")
    with pytest.raises(RunError) as error:
        open_run(recipe)
    assert "\n" not in str(error.value)
    assert_untouched(precious)


def test_run_folder_must_not_be_a_link_but_its_parent_may_be(recipe: Recipe, precious: Path) -> None:
    Path("run").symlink_to(precious)
    with pytest.raises(RunError, match=r"^run: "):
        open_run(recipe)
    assert_untouched(precious)
    Path("disk").mkdir()
    Path("runs").symlink_to("disk")
    open_run(with_values(recipe, {"run.dir": "runs/mine"})).release()
    assert Path("disk/mine/checkpoints").is_dir()


def test_links_to_checkpoints_are_allowed(recipe: Recipe) -> None:
    checkpoints = begin(recipe) / "checkpoints"
    (checkpoints / "step-00000001").mkdir()
    for name in ("last", "best"):
        (checkpoints / name).symlink_to("step-00000001")
    open_run(recipe).release()


def test_file_replaces_a_link_and_is_not_written_through_it(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "recipe.lock.yaml").symlink_to(precious / "file")
    write_atomically(tmp_path / "recipe.lock.yaml", b"new")
    assert (tmp_path / "recipe.lock.yaml").read_text() == "new"
    assert_untouched(precious)


def test_link_with_a_temporary_name_is_not_written_through(
    tmp_path: Path, precious: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shards.files.secrets.token_hex", lambda _: "3f9a1c2d")
    (tmp_path / ".file.3f9a1c2d.half").symlink_to(precious / "file")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file", b"new")
    assert_untouched(precious)


def test_journal_must_not_be_a_link(tmp_path: Path, precious: Path) -> None:
    (tmp_path / "journal.jsonl").symlink_to(precious / "absent")
    with pytest.raises(OSError, match="symbolic links"):
        Journal(tmp_path, steps_per_epoch=1)
    assert_untouched(precious)


@pytest.mark.parametrize("run_id", ["../../precious", "/precious", "a/b", "", "x" * 65, 7])
def test_journal_cannot_choose_where_a_run_writes(recipe: Recipe, run_id: str) -> None:
    """The W&B id in it is part of the names of folders and of shared memory."""
    begin(recipe, run_id)
    with pytest.raises(RunError, match="its journal is damaged"):
        open_run(recipe)


def test_written_files_are_not_world_writable(tmp_path: Path, digits: Path) -> None:
    before = os.umask(0)
    try:
        train(DIGITS, f"data.dir={digits}", "train.epochs=1st", "run.dir=run", "log.wandb.mode=offline", cwd=tmp_path)
    finally:
        os.umask(before)
    written = [tmp_path / "run", *(path for path in (tmp_path / "run").rglob("*") if not path.is_symlink())]
    assert len(written) > 10
    assert [path for path in written if path.stat().st_mode & stat.S_IWOTH] == []


@pytest.mark.parametrize("key", ["..", "../precious", "../../precious", "/", "*", "."])
def test_key_of_the_feature_cache_is_no_path(tmp_path: Path, precious: Path, key: str) -> None:
    root = tmp_path / "features"
    (root / ("0" * 24)).mkdir(parents=True)
    with pytest.raises(UserError, match="no such key"):
        remove_features(key, False, root)
    assert_untouched(precious)
    assert (root / ("0" * 24)).exists()


def test_links_in_the_feature_cache_are_not_followed(tmp_path: Path, precious: Path) -> None:
    root, key = tmp_path / "features", "0" * 24
    root.mkdir()
    (root / key).symlink_to(precious)
    temporary = root / f".{key}-abcd1234"
    temporary.mkdir()
    (temporary / "part-0000.bin").write_bytes(b"\0" * LAYOUT.record_bytes)
    with pytest.raises(OSError, match=r"symbolic link|Not a directory|exists"):
        commit_features(temporary, root, key, {}, LAYOUT)
    assert_untouched(precious)
    remove_features(None, True, root)
    assert not (root / key).is_symlink()
    assert_untouched(precious)


@pytest.mark.parametrize(
    "layout",
    [
        {"values": [{"dtype": "float32", "shape": [2]}], "num_images": 10**15, "num_parts": 1},
        {"values": [{"dtype": "float32", "shape": [-2]}], "num_images": 1, "num_parts": 1},
        {"values": [{"dtype": "../x", "shape": [2]}], "num_images": 1, "num_parts": -1},
        {"values": "x", "num_images": "1", "num_parts": "../../precious"},
    ],
)
def test_features_with_wrong_metadata_are_not_opened(tmp_path: Path, layout: dict[str, object]) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "part-0000.bin").write_bytes(b"\0" * 16)
    (tmp_path / "key" / METADATA_NAME).write_text(json.dumps({"layout": layout}))
    assert open_features(tmp_path, "key") is None
