"""The version of the code, with a real git."""

from __future__ import annotations

import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from launcher.version import find_commit, read_versions


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=me", "-c", "user.email=me@example.org")
    command = ["git", "-C", str(folder), *who, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    git(tmp_path, "init", "-q")
    return folder


def test_commit_and_changes_are_found(package: Path) -> None:
    git(package, "add", ".")
    git(package, "commit", "-q", "-m", "first")
    commit = git(package, "rev-parse", "--short", "HEAD")
    (package.parent / "notes.txt").write_text("not of the package")
    assert find_commit(package) == f"+{commit}"
    (package / "__init__.py").write_text("changed = True")
    assert find_commit(package) == f"+{commit}.dirty"


def test_a_package_outside_of_the_repository_has_no_commit(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (package.parent / "own.txt").write_text("somebody's repository, with a virtual environment in it")
    git(package.parent, "add", "own.txt")
    git(package.parent, "commit", "-q", "-m", "first")
    assert find_commit(package) == ""
    monkeypatch.setenv("PATH", "")
    assert find_commit(package) == ""


def test_versions_are_of_every_package_that_changes_results() -> None:
    versions = read_versions()
    assert versions["launcher"].startswith(version("launcher"))
    assert versions["torch"] == version("torch")
    assert list(versions) == ["launcher", "torch", "torchvision", "accelerate", "wandb"]
