"""The folder of a search: whose it is, and what a resumed search may change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.commands.jobs.tune.folder import hold_folder
from launcher.commands.jobs.tune.plan import SearchPlan
from launcher.commands.jobs.tune.search import load_search
from launcher.errors import RecipeError, RunError
from launcher.recipe.parse import load_recipe
from tests.harness.runs import DIGITS

TEXT = "trials: 4\nsearch:\n  optim.lr: {low: 1.0e-4, high: 0.1, log: true}\n"


@pytest.fixture(autouse=True)
def cwd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def hold(text: str = TEXT, *overrides: str) -> None:
    """Hold the folder `s` for a search of the digits recipe, and release it."""
    Path("s.yaml").write_text(text)
    found, loaded = load_search(Path("s.yaml"), DIGITS, overrides), load_recipe(DIGITS, overrides)
    plan = SearchPlan(found.search, Path("s"), "digits-s", "accuracy", processes=1, parallel=1, device="cpu")
    with hold_folder(plan, found, loaded, overrides):
        assert load_recipe(plan.recipe_file).recipe.optim == loaded.recipe.optim
        with pytest.raises(RunError, match=r"^s: another process "), hold_folder(plan, found, loaded, overrides):
            pass


def test_resumed_search_may_have_more_trials_and_another_log_interval() -> None:
    hold()
    hold(TEXT.replace("trials: 4", "trials: 8"), "log.every=5st")
    kept = json.loads(Path("s/search.json").read_text())
    assert (kept["trials"], kept["recipe"]["log"]["every"]) == (8, "5st")
    assert str(load_recipe(Path("s/recipe.yaml")).recipe.log.every) == "5st"


def test_resumed_search_keeps_everything_else() -> None:
    hold()
    with pytest.raises(RecipeError) as caught:
        hold(TEXT.replace("0.1", "0.5") + "seed: 3\n", "optim.weight_decay=0.1")
    changed = "when the search in s began; restore it, or start another search with --folder"
    domain = "{low: 0.0001, high: %s, log: true}"
    assert caught.value.lines == [
        f"command line: optim.weight_decay: 0.1, but 0.0 {changed}",
        f"s.yaml:4: seed: 3, but 0 {changed}",
        f"s.yaml:3: search.optim.lr: {domain % 0.5}, but {domain % 0.1} {changed}",
    ]


@pytest.mark.parametrize("text", ["{", '{"seed": 7}', "[]"])
def test_damaged_search_is_refused(text: str) -> None:
    hold()
    Path("s/search.json").write_text(text)
    with pytest.raises(RunError, match=r"^s/search\.json: damaged; remove its folder, or start another search with "):
        hold()


def test_folder_with_other_files_is_refused() -> None:
    Path("s").mkdir()
    Path("s/notes.txt").touch()
    with pytest.raises(RunError, match=r"^s: is not a search's folder and not empty; choose another --folder$"):
        hold()


def test_link_is_refused() -> None:
    Path("other").mkdir()
    Path("s").symlink_to("other")
    with pytest.raises(RunError, match=r"^s: is a link, and a search writes through none; choose another --folder$"):
        hold()
    assert list(Path("other").iterdir()) == []


def test_file_in_the_way_is_refused() -> None:
    Path("s").touch()
    with pytest.raises(RunError, match=r"^s: cannot be made \(File exists\); choose another --folder$"):
        hold()
