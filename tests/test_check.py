from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from launcher.check import Wishes, check, complete_recipe
from launcher.cli import run
from launcher.errors import DataError, RecipeError, UserError
from launcher.models.transform import Transform
from launcher.recipe.augment import CenterCrop
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
    assert check(loaded, Wishes(2)) == 0
    assert "recipe is right" in capsys.readouterr().out
    assert not (tmp_path / "shards").exists()


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            [("    - {op: resize, size: [32, 32]}\n  mean: [0.5, 0.5, 0.5]\n", "")],
            "eval: resize 256 bilinear, center_crop 224; mean 0.485 0.456 0.406; std 0.229 0.224 0.225",
        ),
        (
            [("name: resnet18", "name: efficientnet_b1"), ("    - {op: resize, size: [32, 32]}\n  mean", "  mean")],
            "eval: resize 255 bilinear, center_crop 240; mean 0.5 0.5 0.5; std 0.229 0.224 0.225",
        ),
        ([WEIGHTLESS], "eval: resize 32 x 32 bilinear; mean 0.5 0.5 0.5; std dataset"),
    ],
)
def test_eval_transform_is_shown(
    changes: list[tuple[str, str]], line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(load(tmp_path, *changes, overrides=(f"data.dir={tmp_path / 'shards'}",)), Wishes()) == 0
    assert capsys.readouterr().out.splitlines()[0] == line


def test_transform_that_does_not_fit_has_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = Transform((CenterCrop(op="center_crop", size=224),), (0, 0, 0), (1, 1, 1), ("near",))
    monkeypatch.setattr("launcher.models.transform.read_transform", lambda backbone: small)
    sizes = (
        "    - {op: resize, size: [32, 32]}\n    - {op: rot",
        "    - {op: resize, size: [299, 299]}\n    - {op: rot",
    )
    loaded = load(
        tmp_path, ("resnet18", "inception_v3"), sizes, ("    - {op: resize, size: [32, 32]}\n  mean", "  mean")
    )
    told: list[str] = []
    with pytest.raises(
        RecipeError, match=r"recipe.yaml:13: augment.eval: inception_v3 takes 299 x 299 pixels, not 224"
    ):
        complete_recipe(loaded, told.append)
    assert told == ["note: near"]


def test_names_that_do_not_exist_have_their_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"recipe.yaml:3: backbone.name: no such model 'resnet19'; did you mean"):
        check(load(tmp_path, ("resnet18", "resnet19")), Wishes())


@pytest.mark.parametrize(
    ("freeze", "line"),
    [
        ("[layer1, layer9]", "5: backbone.freeze: 'layer9' is no part of the network; did you mean 'layer4'?"),
        (
            "{schedule: [{at: 0, freeze: backbone}, {at: 1, freeze: ['*']}]}",
            "5: backbone.freeze.schedule.1.freeze: leaves nothing to train",
        ),
    ],
)
def test_what_cannot_be_frozen_has_its_place(freeze: str, line: str, tmp_path: Path) -> None:
    loaded = load(tmp_path, ("freeze: none", f"freeze: {freeze}"))
    with pytest.raises(RecipeError) as error:
        check(loaded, Wishes())
    assert error.value.lines == [f"{loaded.file}:{line}"]


def test_plan_error_has_its_place(digits: Path, tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        WEIGHTLESS,
        ("{train: 0.8, valid: rest}", "{train: 0.6, valid: 0.2, test: rest}"),
        overrides=(f"data.dir={digits}",),
    )
    with pytest.raises(RecipeError, match=r"recipe.yaml:24: train.global_batch: 32 cannot be shared .* try 33"):
        check(loaded, Wishes(3))


def test_shards_of_another_packing_are_refused(digits: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds 'digits split="):
        check(load(tmp_path, WEIGHTLESS, overrides=(f"data.dir={digits}",)), Wishes())


def test_no_processes_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--processes 0: must be at least 1"):
        check(load(tmp_path, WEIGHTLESS), Wishes(0))


def test_nothing_is_written(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _content(digits)
    recipe = Path("recipes/lenet_digits.yaml").absolute()
    monkeypatch.chdir(tmp_path)
    assert run(["check", str(recipe), f"data.dir={digits}"]) == 0
    assert _content(digits) == before
    assert list(tmp_path.iterdir()) == []


def _content(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
