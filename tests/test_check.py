from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from launcher.check import check
from launcher.cli import run
from launcher.errors import DataError, RecipeError, UserError
from tests.recipe.right import load

WEIGHTLESS = ("weights: DEFAULT", "weights: none")


def test_plan_is_shown(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["check", "recipes/lenet_digits.yaml", f"data.dir={digits}", "--processes", "4"])
    out = capsys.readouterr().out
    assert code == 0
    assert "lenet_digits.yaml on 4 processes" in " ".join(out.split())
    rows = {row[1].strip(): row[2].strip() for row in (line.split("│") for line in out.splitlines()) if len(row) == 4}
    assert (rows["num_train"], rows["rank_batch"], rows["total_steps"]) == ("1,078", "8", "990")
    assert rows["num_test"] == "359"


def test_shards_that_are_not_there_are_announced_and_not_packed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded = load(tmp_path, WEIGHTLESS, overrides=(f"data.dir={tmp_path / 'shards'}",))
    assert check(loaded, 2) == 0
    assert "recipe is right" in capsys.readouterr().out
    assert not (tmp_path / "shards").exists()


def test_names_that_do_not_exist_have_their_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe.yaml:3: backbone.name: no such model 'resnet19'; did you mean"):
        check(load(tmp_path, ("resnet18", "resnet19")), 1)


def test_plan_error_has_its_place(digits: Path, tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        WEIGHTLESS,
        ("{train: 0.8, valid: rest}", "{train: 0.6, valid: 0.2, test: rest}"),
        overrides=(f"data.dir={digits}",),
    )
    with pytest.raises(RecipeError, match=r"recipe.yaml:24: train.global_batch: 32 cannot be shared .* try 33"):
        check(loaded, 3)


def test_shards_of_another_packing_are_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 'digits split="):
        check(load(tmp_path, WEIGHTLESS, overrides=(f"data.dir={digits}",)), 1)


def test_no_processes_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--processes 0: must be at least 1"):
        check(load(tmp_path, WEIGHTLESS), 0)


def test_nothing_is_written(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _content(digits)
    recipe = Path("recipes/lenet_digits.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    assert run(["check", str(recipe), f"data.dir={digits}"]) == 0
    assert _content(digits) == before
    assert list(tmp_path.iterdir()) == []


def _content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
