from __future__ import annotations

import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from launcher.recipe import yaml_text
from launcher.recipe.yaml_text import YamlError, join, read_yaml, render_yaml
from tests.recipe.right import QUICK

TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
WORDS = st.sampled_from(
    ["no", "yes", "on", "1e3", "08", "0o7", "0x1f", "1_000", "~", "null", "", ".5", "12:30", "=", "<<"]
)
KEYS = TEXTS.filter(lambda key: key != "<<")  # refused on purpose
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS | WORDS
PLAIN = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("none", "none"),
        ("no", "no"),
        ("on", "on"),
        ("nice", "nice"),
        ("null", None),
        ("~", None),
        ("", None),
        ("true", True),
        ("false", False),
        ("True", "True"),
        ("yes", "yes"),
        ("12", 12),
        ("-3", -3),
        ("0", 0),
        ("1e-3", 0.001),
        ("1.0e-4", 0.0001),
        (".5", 0.5),
        ("-.inf", -math.inf),
        ("0x1f", "0x1f"),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2020-01-01", "2020-01-01"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("imagefolder:/data", "imagefolder:/data"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    data, _ = read_yaml(f"key: {text}\n")
    assert data == {"key": value}
    assert type(data["key"]) is type(value)


def test_every_key_and_item_has_its_line() -> None:
    data, lines = read_yaml("# comment\na:\n  b: 1\n  c:\n    - x\n    - {d: 2,\n       e: 3}\n")
    assert data == {"a": {"b": 1, "c": ["x", {"d": 2, "e": 3}]}}
    assert lines == {"": 2, "a": 2, "a.b": 3, "a.c": 4, "a.c.0": 5, "a.c.1": 6, "a.c.1.d": 6, "a.c.1.e": 7}


def test_byte_order_mark_is_no_part_of_the_first_key() -> None:
    assert read_yaml("\ufeffa: 1\n")[0] == {"a": 1}


def test_aliases_are_read_as_copies() -> None:
    data, _ = read_yaml("a: &x {b: 1}\nc: *x\n")
    assert data == {"a": {"b": 1}, "c": {"b": 1}}
    assert data["a"] is not data["c"]


def test_error_has_its_line() -> None:
    with pytest.raises(YamlError, match="b: written twice, first on line 2") as raised:
        read_yaml("a: 1\nb: 2\nc: 3\nb: 4\n")
    assert raised.value.line == 4


def test_two_documents_are_refused() -> None:
    with pytest.raises(YamlError, match="expected a single document"):
        read_yaml("a: 1\n---\nb: 2\n")


def test_unknown_alias_is_refused() -> None:
    with pytest.raises(YamlError, match="found undefined alias 'x'"):
        read_yaml("a: *x\n")


def test_number_of_values_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_text, "MAX_NODES", 100)
    assert len(read_yaml(f"[{'1,' * 99}]")[0]) == 99
    with pytest.raises(YamlError, match="too many values"):
        read_yaml(f"[{'1,' * 100}]")


@QUICK
@given(PLAIN)
def test_written_data_is_read_back(data: Any) -> None:
    assert read_yaml(render_yaml({"key": data}))[0] == {"key": data}


@QUICK
@given(WORDS | TEXTS)
def test_other_readers_of_yaml_read_the_same_text(text: str) -> None:
    assert yaml.safe_load(render_yaml({"key": text})) == {"key": text}


@QUICK
@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        read_yaml(text)
    except YamlError as error:
        assert 1 <= error.line <= len(text) + 1  # noqa: PT017  # either way is right


def test_join_makes_dotted_paths() -> None:
    assert (join("", "a"), join("a", "b"), join("a", 0)) == ("a", "a.b", "a.0")
