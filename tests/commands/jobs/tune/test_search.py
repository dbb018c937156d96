from __future__ import annotations

from pathlib import Path

import pytest

from launcher.commands.jobs.tune.search import Range, Values, as_overrides, load_search, recipe_values
from launcher.errors import RecipeError
from launcher.recipe.parse import load_recipe
from tests.harness.runs import DIGITS, RECIPES

GOOD = "trials: 4\nsearch:\n  optim.lr: {low: 1.0e-4, high: 0.1, log: true}\n  optim.name: [adam, adamw]\n"


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    return file


def test_search_has_ranges_and_choices(tmp_path: Path) -> None:
    search = load_search(write(tmp_path, GOOD), DIGITS, ()).search
    assert search.trials == 4
    assert search.search == {"optim.lr": Range(low=1e-4, high=0.1, log=True), "optim.name": ("adam", "adamw")}


def test_shipped_searches_are_valid() -> None:
    assert [load_search(file, DIGITS, ()).search.trials for file in (RECIPES / "searches").glob("*.yaml")] == [12]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("search:\n  optim.lrr: {low: 0.1, high: 1}\n", 2, "optim.lrr: unknown key; did you mean 'lr'?"),
        ("search:\n  optim.lr: {low: 1, high: 0.1}\n", 2, "low 1 must be below high 0.1"),
        ("search:\n  optim.lr: {low: 0, high: 0.1, log: true}\n", 2, "has no logarithm"),
        ("search:\n  optim.lr: {low: -1.0, high: 0.1}\n", 2, "optim.lr: must be more than 0"),
        ("search:\n  optim.beta1: {low: 0.5, high: 1.5}\n", 2, "optim.beta1: "),
        ("search:\n  optim.lr: {low: 0.1, hihg: 1}\n", 2, "unknown key; did you mean 'high'?"),
        ("search:\n  optim.name: [adam, adma]\n", 2, "adma"),
        ("search:\n  optim.name: [adam]\n", 2, "search.optim.name: needs at least 2 values, not 1"),
        ("search:\n  optim.name: [adam, adam]\n", 2, "search.optim.name: adam is written twice"),
        (
            "search:\n  train.global_batch: {low: 8, high: 64}\n",
            2,
            "is in the range, but no valid value; for whole numbers, add whole: true",
        ),
        ("search:\n  optim.lr: {low: a, high: 1}\n", 2, 'search.optim.lr.low: should be a number, not "a"'),
        ("search:\n  optim.lr: {low: 0.1}\n", 2, "search.optim.lr.high: required, but missing"),
        ("search:\n  optim.lr: {low: .nan, high: 1}\n", 2, "search.optim.lr.low: must be a finite number, not NaN"),
        ("search:\n  optim.lr: 0.1\n", 2, "search.optim.lr: should be a section with keys, not 0.1"),
        ("search: 3\n", 1, "search: should be a section with keys, not 3"),
        ("", 1, "search: required, but missing"),
        ("- 3\n", 1, "a search is 'search:' with keys of the recipe below it, not a list"),
        ("seed: 0\nserach:\n  optim.lr: {low: 0.1, high: 1}\n", 2, "serach: unknown key; did you mean 'search'?"),
        ("search:\n  run.dir: [a, b]\n", 2, "search.run.dir: tune itself sets this key: each trial has a folder"),
        ("search:\n  run.name: [a, b]\n", 2, "search.run.name: tune itself sets this key"),
        ("search:\n  log.wandb.group: [a, b]\n", 2, "search.log.wandb.group: tune itself sets this key"),
        ("search:\n  log.wandb.job_type: [a, b]\n", 2, "search.log.wandb.job_type: tune itself sets this key"),
        ("search:\n  train.best_metric: [loss, top1]\n", 2, "search.train.best_metric: tune itself sets this key"),
        ("search:\n  optim.name: [adam, 1]\n", 2, "must be of one type, not numbers and str"),
        ("search:\n  train.global_batch: {low: 8, high: 32.5, whole: true}\n", 2, "must be whole numbers"),
        ("search:\n  train.global_batch: {low: 8.5, high: 32}\n", 2, "train.global_batch: "),
        ("trails: 3\nsearch:\n  optim.lr: {low: 0.1, high: 1}\n", 1, "unknown key; did you mean 'trials'?"),
        ("trials: 3\n", 1, "search: required, but missing"),
        ("trials: 0\nsearch:\n  optim.lr: {low: 0.1, high: 1}\n", 1, "trials: "),
        ("search: {\n", 2, "not valid YAML"),
    ],
)
def test_mistake_is_reported_with_its_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_search(file, DIGITS, ())
    (only,) = caught.value.lines
    assert only.startswith(f"{file}:{line}: ")
    assert words in only


def test_all_mistakes_are_reported_at_once(tmp_path: Path) -> None:
    text = """\
trials: 0
search:
  optim.lrr: {low: 0.1, high: 1}
  optim.weight_decay: {low: a, high: 1}
  run.dir: [a, b]
  optim.betta1: {low: 0.5, hihg: 0.9}
  optim.beta1: {low: 0.9, high: 0.5}
"""
    file = write(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        load_search(file, DIGITS, ())
    found = sorted(line.removeprefix(f"{file}:").partition(": ")[::2] for line in caught.value.lines)
    assert found == [
        ("1", "trials: must be at least 1, not 0"),
        ("3", "search.optim.lrr: unknown key; did you mean 'lr'?"),
        ("4", 'search.optim.weight_decay.low: should be a number, not "a"'),
        (
            "5",
            "search.run.dir: tune itself sets this key: each trial has a folder of its own; take it out of the search",
        ),
        ("6", "search.optim.betta1.hihg: unknown key; did you mean 'high'?"),
        ("6", "search.optim.betta1: unknown key; did you mean 'beta1'?"),
        ("7", "search.optim.beta1: low 0.9 must be below high 0.5"),
    ]


def test_value_that_contradicts_the_recipe_names_both_places(tmp_path: Path) -> None:
    recipe = tmp_path / "photo.yaml"
    recipe.write_text(DIGITS.read_text())
    file = write(tmp_path, "search:\n  data.source: [null-pets, digits]\n")
    with pytest.raises(RecipeError) as caught:
        load_search(file, recipe, ())
    assert all(line.startswith(f"{file}:2: search.data.source: ") for line in caught.value.lines), caught.value.lines


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path, GOOD)
    with pytest.raises(RecipeError, match=r"no such file; did you mean '.*s\.yaml'"):
        load_search(tmp_path / "ss.yaml", DIGITS, ())


def test_keys_with_a_recipe_value_outside_the_search_are_named(tmp_path: Path) -> None:
    search = load_search(write(tmp_path, GOOD), DIGITS, ()).search
    recipe = load_recipe(DIGITS).recipe
    assert recipe_values(search, recipe) == ({"optim.lr": 0.002, "optim.name": "adam"}, [])
    outside = load_recipe(DIGITS, ["optim.lr=0.5"]).recipe
    assert recipe_values(search, outside)[1] == ["optim.lr"]


def test_overrides_keep_their_values() -> None:
    values: Values = {"optim.lr": 1e-05, "optim.name": "adamw", "train.global_batch": 16}
    recipe = load_recipe(DIGITS, as_overrides(values)).recipe
    assert (recipe.optim.lr, recipe.optim.name, recipe.train.global_batch) == (1e-05, "adamw", 16)
    texts: Values = {"run.dir": "runs/a-b/trial-007", "run.name": "true", "data.dir": "a: b", "data.root": "12"}
    assert as_overrides(texts) == ["run.dir=runs/a-b/trial-007", 'run.name="true"', 'data.dir="a: b"', 'data.root="12"']
