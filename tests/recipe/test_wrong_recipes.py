"""Wrong files and overrides, and the lines a user sees, each with its place. Values: test_messages.py, test_lint.py."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from launcher.recipe.parse import load_recipe
from launcher.recipe.problem import Problem
from tests.recipe.right import errors_of, load, write

WRONG_KEYS = [
    ("run: {", "rum: {", "1: rum: unknown key; did you mean 'run'?"),
    ("  name: resnet18", "  nane: resnet18", "3: backbone.nane: unknown key; did you mean 'name'?"),
    ("{op: resize, size", "{op: resize, sise", "11: augment.train.0.sise: unknown key; did you mean 'size'?"),
    ("{op: resize, size: [32, 32]}", "{op: resize}", "11: augment.train.0.size: required, but missing"),
    ("train:\n  epochs", "trian:\n  epochs", "22: trian: unknown key; did you mean 'train'?"),
    ("  lr: 0.1\n", "", "17: optim.lr: required, but missing"),
    ("  name: sgd\n", "", "17: optim.name: required, but missing: it names the kind"),
    ("backbone:\n  name: resnet18\n  weights: DEFAULT\n  freeze: none\n", "", "1: backbone: required, but missing"),
]

NOT_PLAIN_YAML = [
    ("run: {seed: 3}", "\trun: 3", "1: not valid YAML: a tab; indent with spaces"),
    (
        "run: {seed: 3}",
        "run: {seed: 3",
        "2: not valid YAML: expected ',' or '}', but got ':' while parsing a flow mapping that begins on line 1",
    ),
    (
        "run: {seed: 3}",
        "run: a: b",
        "1: not valid YAML: a second ': ' in one value; quote the text, or fix the indentation",
    ),
    ("global_batch: 32", "epochs: 4", "24: train.epochs: written twice, first on line 23"),
    (
        "seed: 3",
        "name: !!python/object/apply:os.system [touch executed]",
        "1: has the tag !!python/object/apply:os.system; a recipe holds plain values only",
    ),
    ("seed: 3", "name: !!binary aGk=", "1: has the tag !!binary; a recipe holds plain values only"),
    ("seed: 3", "seed: !!int many", "1: not valid YAML: 'many' cannot be read as a whole number"),
    ("seed: 3", "seed: !!bool maybe", "1: not valid YAML: 'maybe' cannot be read as true or false"),
    ("seed: 3", 'name: "\\ud800"', "1: not valid YAML: '\\ud800' cannot be read as text"),
    ("seed: 3", "name: \0", "1: not valid YAML: has the character '\\x00'"),
    ("seed: 3", "[a]: 3", "1: a key must be a word, not a list or a section"),
    ("seed: 3", "<<: {seed: 3}", "1: << is not supported; write the keys out"),
    ("seed: 3", "seed: " + "9" * 5000, f"1: not valid YAML: '{'9' * 40}' cannot be read as a whole number"),
]


@pytest.mark.parametrize(("old", "new", "line"), [*WRONG_KEYS, *NOT_PLAIN_YAML])
def test_wrong_file_gets_one_line(old: str, new: str, line: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path, (old, new))) == [f"recipe.yaml:{line}"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.epochs", "'train.epochs' is not key.path=value; write for example train.epochs=10"),
        ("=3", "'=3' is not key.path=value; write for example train.epochs=10"),
        ("train..epochs=3", "'train..epochs=3' is not key.path=value; write for example train.epochs=10"),
        (
            "train.epochs=[",
            "train.epochs: not valid YAML: expected the node content, but found '<stream end>'",
        ),
        ("train.epochs.st=3", "train.epochs.st: train.epochs is a single value without st"),
        ("augment.train.2.op=resize", "augment.train.2.op: augment.train is a list without 2; valid: 0 to 1"),
        ("augment.train.-1.op=x", "augment.train.-1.op: augment.train is a list without -1; valid: 0 to 1"),
        ("augment.train.op=x", "augment.train.op: augment.train is a list without op; valid: 0 to 1"),
        ("run.dir=\udcff", "run.dir: not valid YAML: has the character '\\udcff'"),
    ],
    ids=range(9),
)
def test_wrong_override_gets_one_line(override: str, line: str, tmp_path: Path) -> None:
    assert errors_of(write(tmp_path), (override,)) == [f"command line: {line}"]


def test_wrong_overrides_are_reported_with_the_errors_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, ("lr: 0.1", "lr: 0"))
    assert errors_of(path, ("epochs", "train.epoch=3")) == [
        "command line: 'epochs' is not key.path=value; write for example train.epochs=10",
        "recipe.yaml:19: optim.lr: must be more than 0, not 0",
        "command line: train.epoch: unknown key; did you mean 'epochs'?",
    ]


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        ("seed: 3", "seed: -1"),
        ("weights: DEFAULT", "wieghts: DEFAULT"),
        ("source: digits", "source: digits\n  root: elsewhere"),
        ("op: rotation", "op: rotate"),
        ("lr: 0.1", "lr: fast"),
        ("momentum: 0.9", "momentum: 0\n  nesterov: true"),
        ("{name: cosine, warmup: 1ep}", "{name: linear}"),
        ("micro_batch: 8", "micro_batch: 5"),
        ("precision: bf16", "device: cpu\n  precision: fp16"),
        ("tags: [a, b]", "tags: [1]"),
    )
    assert errors_of(path) == [
        "recipe.yaml:1: run.seed: must be at least 0, not -1",
        "recipe.yaml:4: backbone.wieghts: unknown key; did you mean 'weights'?",
        "recipe.yaml:13: augment.train.1.op: no such op: \"rotate\"; did you mean 'rotation'?",
        'recipe.yaml:20: optim.lr: should be a number, not "fast"',
        'recipe.yaml:23: schedule.name: no such name: "linear"; valid: constant, cosine, onecycle, step',
        "recipe.yaml:32: log.wandb.tags.0: should be text, not 1",
        "recipe.yaml:8: data.root: has no effect without a torchvision source",
        "recipe.yaml:30: strategy.precision: fp16 needs CUDA; use bf16 on the CPU",
        "recipe.yaml:27: train.micro_batch: 5 does not divide train.global_batch 32; try 4",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("- a\n", ":1: a recipe is sections of 'key: value', not a list"),
        ("42\n", ":1: a recipe is sections of 'key: value', not 42"),
        ("a: &a {b: *a}", ":1: too many values for a recipe"),
        ("[" * 100_000, ":1: nested too deeply for a recipe"),
        ("a: " + "{a: " * 10_000, ":1: nested too deeply for a recipe"),
        ("\n" * 300_000, ":1: 300,000 characters: too long for a recipe"),
        ("\n" * 900_000, ": 800,000 bytes or more: too long for a recipe"),
    ],
    ids=["list", "number", "ring", "brackets", "braces", "long", "longer"],
)
def test_file_that_is_no_recipe_is_refused_quickly(text: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    start = time.monotonic()
    assert errors_of(path) == [f"recipe.yaml{line}"]
    assert time.monotonic() - start < 20


def test_aliases_that_unfold_without_end_are_refused_quickly(tmp_path: Path) -> None:
    rows = [f"b{i}: &b{i} [{', '.join([f'*b{i - 1}'] * 9)}]" for i in range(1, 15)]
    path = tmp_path / "recipe.yaml"
    path.write_text("\n".join(["b0: &b0 [x, x, x, x, x, x, x, x, x]", *rows]))
    start = time.monotonic()
    assert errors_of(path) == ["recipe.yaml:1: too many values for a recipe"]
    assert time.monotonic() - start < 20


def test_empty_file_lacks_every_required_section(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("# nothing yet\n")
    sections = ("backbone", "data", "augment", "optim", "train")
    assert errors_of(path) == [f"recipe.yaml:1: {section}: required, but missing" for section in sections]


def test_missing_file_names_the_nearest(tmp_path: Path) -> None:
    write(tmp_path)
    assert errors_of(tmp_path / "recipes.yaml") == ["recipes.yaml: no such recipe; did you mean 'recipe.yaml'?"]


def test_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    assert errors_of(tmp_path / "nowhere" / "recipe.yaml") == ["recipe.yaml: no such recipe"]


def test_folder_names_the_recipes_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write(folder)
    assert errors_of(folder) == ["many: is a folder, not a recipe; did you mean 'many/recipe.yaml'?"]


def test_file_in_a_file_is_refused(tmp_path: Path) -> None:
    assert errors_of(write(tmp_path) / "recipe.yaml") == ["recipe.yaml: cannot be read: Not a directory"]


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(b"run:\n  name: \xe9t\xe9\n")
    assert errors_of(path) == ["recipe.yaml:2: not UTF-8 text: byte 0xe9"]


def test_endless_file_is_refused() -> None:
    assert errors_of(Path("/dev/zero")) == ["zero: 800,000 bytes or more: too long for a recipe"]


def test_tag_is_never_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for kind in ("object/apply", "object/new", "name", "module", "object"):
        path = write(tmp_path, ("{seed: 3}", f"!!python/{kind}:os.mkdir [executed]"))
        assert errors_of(path) == [
            f"recipe.yaml:1: has the tag !!python/{kind}:os.mkdir; a recipe holds plain values only"
        ]
    assert not (tmp_path / "executed").exists()


def test_error_inside_a_list_is_placed_at_the_item(tmp_path: Path) -> None:
    problem = Problem("augment.train.1.degrees", "wrong")
    path = write(tmp_path)
    assert load_recipe(path).error([problem]).lines == [f"{path}:12: augment.train.1.degrees: wrong"]
    overridden = load_recipe(path, ["augment.train.1.degrees=5"])
    assert overridden.error([problem]).lines == ["command line: augment.train.1.degrees: wrong"]


def test_error_of_a_default_is_placed_at_its_section(tmp_path: Path) -> None:
    loaded = load(tmp_path)
    lines = loaded.error([Problem("train.patience", "wrong"), Problem("checkpoint.every", "wrong")]).lines
    assert lines == [f"{loaded.file}:22: train.patience: wrong", f"{loaded.file}:1: checkpoint.every: wrong"]
