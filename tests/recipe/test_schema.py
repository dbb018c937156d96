from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launcher.cli.main import run
from launcher.recipe.augment import RANDOM_OPS, EvalOp, TrainOp
from launcher.recipe.duration import Duration
from launcher.recipe.fields import Section
from launcher.recipe.parse import load_recipe
from launcher.recipe.schema import Recipe
from launcher.recipe.yaml_text import read_yaml
from tests.recipe.right import RIGHT, ROOT, SHIPPED, load

SCHEMA_FILE = ROOT / "recipes" / "schema.json"
SCHEMA: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())
TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


def complaints(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """The places where `value` breaks the part of JSON schema that pydantic writes. Unknown keywords fail."""
    for word, rule in schema.items():
        if word == "$ref":
            yield from complaints(SCHEMA["$defs"][rule.rpartition("/")[2]], value, path)
        elif word in ("anyOf", "oneOf"):
            fitting = sum(not list(complaints(each, value, path)) for each in rule)
            if fitting == 0 or (word == "oneOf" and fitting > 1):
                yield f"{path}: {fitting} of {word}"
        elif not CHECKS[word](rule, value):
            yield f"{path}: {word} {rule}"
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        for key, inner in value.items():
            if key not in properties and others is False:
                yield f"{path}.{key}: unknown"
            elif key in properties or others:
                yield from complaints(properties.get(key, others), inner, f"{path}.{key}")
    if isinstance(value, list):
        items = schema.get("prefixItems", [schema.get("items", {})] * len(value))
        for i, (rule, inner) in enumerate(zip(items, value, strict=False)):
            yield from complaints(rule, inner, f"{path}.{i}")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_type(name: str, value: Any) -> bool:
    return isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def always(rule: Any, value: Any) -> bool:
    return True


CHECKS: dict[str, Any] = {
    **dict.fromkeys(("$defs", "title", "description", "default", "discriminator", "properties"), always),
    **dict.fromkeys(("additionalProperties", "items", "prefixItems"), always),
    "type": has_type,
    "const": lambda rule, value: value == rule,
    "enum": lambda rule, value: value in rule,
    "required": lambda rule, value: not isinstance(value, dict) or set(rule) <= set(value),
    "propertyNames": lambda rule, value: not isinstance(value, dict) or set(value) <= set(rule["enum"]),
    "pattern": lambda rule, value: not isinstance(value, str) or re.search(rule, value) is not None,
    "minLength": lambda rule, value: not isinstance(value, str) or len(value) >= rule,
    "minItems": lambda rule, value: not isinstance(value, list) or len(value) >= rule,
    "maxItems": lambda rule, value: not isinstance(value, list) or len(value) <= rule,
    "minimum": lambda rule, value: not is_number(value) or value >= rule,
    "maximum": lambda rule, value: not is_number(value) or value <= rule,
    "exclusiveMinimum": lambda rule, value: not is_number(value) or value > rule,
    "exclusiveMaximum": lambda rule, value: not is_number(value) or value < rule,
}


def sections(section: type[Section] = Section) -> Iterator[type[Section]]:
    for each in section.__subclasses__():
        yield each
        yield from sections(each)


SECTIONS: list[type[Section]] = list(sections())


def test_schema_file_is_current(capsys: pytest.CaptureFixture[str]) -> None:
    """After a change of the recipe: `launcher schema > recipes/schema.json`."""
    assert run(["schema"]) == 0
    assert capsys.readouterr().out == SCHEMA_FILE.read_text()


@pytest.mark.parametrize("section", SECTIONS, ids=[section.__name__ for section in SECTIONS])
def test_every_key_is_described(section: type[Section]) -> None:
    assert section.__doc__
    assert section.model_fields
    undescribed = [name for name, field in section.model_fields.items() if not (field.description or "").endswith(".")]
    assert undescribed == []


def test_every_key_of_the_schema_shows_a_description() -> None:
    places = {"Recipe": SCHEMA, **SCHEMA["$defs"]}
    undescribed = [
        f"{name}.{key}"
        for name, schema in places.items()
        for key, rule in schema["properties"].items()
        if not (rule.get("description") or SCHEMA["$defs"][rule["$ref"].rpartition("/")[2]]["description"])
    ]
    assert undescribed == []


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_fits_the_schema_and_loads(path: Path) -> None:
    text = path.read_text()
    assert text.splitlines()[0] == "# yaml-language-server: $schema=schema.json"
    assert list(complaints(SCHEMA, read_yaml(text)[0])) == []
    assert load_recipe(path).recipe.run.name == path.stem


def test_five_recipes_are_shipped() -> None:
    names = {path.stem for path in SHIPPED}
    assert names >= {
        "lenet_digits",
        "lenet_cifar10",
        "resnet50_caltech",
        "alexnet_hymenoptera",
        "resnet18_cifar10_finetune_sgd",
    }


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("seed: 3", "sed: 3", ".run.sed: unknown"),
        ("seed: 3", "seed: -1", ".run.seed: minimum 0"),
        ("global_batch: 32", "global_batch: 1.5", ".train.global_batch: type integer"),
        ("precision: bf16", "precision: half", ".strategy.precision: enum ['no', 'bf16', 'fp16']"),
        ("op: rotation", "op: rotate", ".augment.train.1: 0 of oneOf"),
        ("epochs: 3", "epochs: 3min", ".train.epochs: 0 of anyOf"),
        ("epochs: 3", "epochs: 0", ".train.epochs: 0 of anyOf"),
        ("  lr: 0.1\n", "", ".optim: 0 of oneOf"),
        ("valid: rest", "vaild: rest", ".data.split: 0 of anyOf"),
    ],
)
def test_schema_finds_wrong_values(old: str, new: str, complaint: str) -> None:
    data, _ = read_yaml(RIGHT.replace(old, new, 1))
    assert list(complaints(SCHEMA, data)) == [complaint]


def test_locked_recipe_fits_the_schema(tmp_path: Path) -> None:
    assert list(complaints(SCHEMA, load(tmp_path).recipe.model_dump(mode="json"))) == []


def test_defaults_of_the_schema_fit_the_schema() -> None:
    wrong = [
        f"{name}.{key}"
        for name, schema in {"Recipe": SCHEMA, **SCHEMA["$defs"]}.items()
        for key, rule in schema["properties"].items()
        if "default" in rule and list(complaints(rule, rule["default"]))
    ]
    assert wrong == []
    assert SCHEMA["$defs"]["Checkpoint"]["properties"]["every"]["default"] == "1ep"


def test_keys_and_defaults_that_other_modules_use() -> None:
    recipe = load_recipe(ROOT / "recipes" / "lenet_digits.yaml").recipe
    assert recipe.train.micro_batch is None
    assert recipe.train.epochs == Duration(30, "ep")
    assert (recipe.run.dir, recipe.run.seed, recipe.log.samples) == (None, 0, False)
    assert (recipe.checkpoint.every, recipe.log.every) == (Duration(1, "ep"), Duration(20, "st"))
    assert (recipe.data.source, recipe.backbone.name, recipe.backbone.weights) == ("digits", "lenet", "none")
    assert (recipe.strategy.precision, recipe.log.wandb.mode) == ("no", "auto")


def test_random_operations_are_those_that_eval_refuses() -> None:
    def names(union: Any) -> set[str]:
        members = union.__origin__.__args__
        return {member.model_fields["op"].annotation.__args__[0] for member in members}

    assert set(RANDOM_OPS) == names(TrainOp) - names(EvalOp)


def test_sections_refuse_unknown_keys() -> None:
    assert Recipe in SECTIONS
    for section in SECTIONS:
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["strict"] is True
        assert section.model_config["frozen"] is True
