from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

from launcher import errors
from launcher.errors import (
    CheckpointError,
    DataError,
    FetchError,
    LauncherError,
    RankLost,
    RecipeError,
    RunError,
    SpawnedRunError,
    UserError,
    is_peer_lost,
    nearest,
    nearest_path,
)


def test_the_tree_in_the_docstring_is_that_of_the_classes() -> None:
    rows = re.findall(r"^    ([│ ]*)[├└]── (\w+)", str(errors.__doc__), re.MULTILINE)
    bases = {name: "UserError" if indent else "LauncherError" for indent, name in rows}
    classes = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, LauncherError)]
    classes.remove(LauncherError)
    assert bases == {each.__name__: str(each.__base__ and each.__base__.__name__) for each in classes}


def test_a_recipe_error_has_a_line_for_each_problem() -> None:
    error = RecipeError(["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"])
    assert str(error) == "a.yaml:1: x: wrong\na.yaml:2: y: wrong"
    assert error.lines == ["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"]


@pytest.mark.parametrize(
    "error",
    [
        RecipeError(["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"]),
        RunError("in use"),
        SpawnedRunError("failed", 3),
        RankLost("rank 1 failed", should_print=True),
    ],
)
def test_errors_can_be_sent_to_other_ranks(error: LauncherError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_a_line_of_a_recipe_error_stays_one_line() -> None:
    error = RecipeError(["größe\n\x1b[31m\u2028\udcff"])
    assert error.lines == ["größe\\n\\x1b[31m\\u2028\\udcff"]
    assert str(error).splitlines() == error.lines


@pytest.mark.parametrize("kind", [RecipeError, RunError, DataError, FetchError])
def test_errors_that_the_user_can_fix_are_user_errors(kind: type[Exception]) -> None:
    assert issubclass(kind, UserError)


def test_a_damaged_checkpoint_is_no_user_error() -> None:
    assert issubclass(CheckpointError, LauncherError)
    assert not issubclass(CheckpointError, UserError)


def test_a_lost_peer_is_found_among_the_causes_too() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    assert is_peer_lost(lost)
    error = RankLost("rank 1 failed", should_print=True)
    error.__cause__ = lost
    assert is_peer_lost(error)
    assert not is_peer_lost(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize(
    ("name", "valid", "words"),
    [
        ("epoch", ["epochs", "patience"], "; did you mean 'epochs'?"),
        ("zzz", ["b", "a"], "; valid: a, b"),
        ("zzz", [], ""),
        ("zzz", [f"n{i:02d}" for i in range(13)], f"; valid: {', '.join(f'n{i:02d}' for i in range(12))}, ..."),
        ("zzz", [f"n{i:02d}" for i in range(12)], f"; valid: {', '.join(f'n{i:02d}' for i in range(12))}"),
    ],
)
def test_nearest_gives_the_closest_name_or_all_valid_ones(name: str, valid: list[str], words: str) -> None:
    assert nearest(name, valid) == words


def test_nearest_path_gives_an_existing_neighbor(tmp_path: Path) -> None:
    (tmp_path / "runs/pets/first").mkdir(parents=True)
    (tmp_path / "runs/.pest").mkdir()
    (tmp_path / "runs/pest").symlink_to("nothing")
    for name, wanted in (("runs/pest", "pets"), ("runs/pet/first", "pets/first"), ("runs/pet/last", "pets")):
        assert nearest_path(tmp_path / name) == f"; did you mean '{tmp_path}/runs/{wanted}'?"
    assert nearest_path(tmp_path / "ruins/pets/first") == f"; did you mean '{tmp_path}/runs/pets/first'?"
    for name in ("runs/pets", "runs/birds", "elsewhere/pets"):
        assert nearest_path(tmp_path / name) == ""
