from __future__ import annotations

from pathlib import Path

import pytest

from launcher.errors import (
    CheckpointError,
    DataError,
    FetchError,
    LauncherError,
    RankLost,
    RecipeError,
    RunError,
    UserError,
    is_peer_lost,
    nearest,
    nearest_path,
)


def test_recipe_error_has_a_line_a_problem() -> None:
    error = RecipeError(["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"])
    assert str(error) == "a.yaml:1: x: wrong\na.yaml:2: y: wrong"
    assert error.lines == ["a.yaml:1: x: wrong", "a.yaml:2: y: wrong"]


def test_a_line_of_a_recipe_error_stays_one_line() -> None:
    error = RecipeError(["größe\n\x1b[31m\u2028\udcff"])
    assert error.lines == ["größe\\n\\x1b[31m\\u2028\\udcff"]
    assert str(error).splitlines() == error.lines


@pytest.mark.parametrize("kind", [RecipeError, RunError, DataError, FetchError])
def test_what_the_user_can_mend_is_a_user_error(kind: type[Exception]) -> None:
    assert issubclass(kind, UserError)


def test_a_damaged_checkpoint_is_no_user_error() -> None:
    assert issubclass(CheckpointError, LauncherError)
    assert not issubclass(CheckpointError, UserError)


def test_what_gloo_says_of_a_lost_peer_is_known_also_as_a_cause() -> None:
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1")
    assert is_peer_lost(lost)
    error = RankLost("rank 1 failed", speaks=True)
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
def test_nearest(name: str, valid: list[str], words: str) -> None:
    assert nearest(name, valid) == words


def test_the_near_neighbour_of_a_path(tmp_path: Path) -> None:
    (tmp_path / "runs/pets/first").mkdir(parents=True)
    (tmp_path / "runs/.pest").mkdir()
    (tmp_path / "runs/pest").symlink_to("nothing")
    for name, wanted in (("runs/pest", "pets"), ("runs/pet/first", "pets/first"), ("runs/pet/last", "pets")):
        assert nearest_path(tmp_path / name) == f"; did you mean '{tmp_path}/runs/{wanted}'?"
    assert nearest_path(tmp_path / "ruins/pets/first") == f"; did you mean '{tmp_path}/runs/pets/first'?"
    for name in ("runs/pets", "runs/birds", "elsewhere/pets"):
        assert nearest_path(tmp_path / name) == ""
