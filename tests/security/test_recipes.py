"""Hostile recipes: YAML that would run code, or expand without end, is refused at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from launcher.errors import LauncherError
from launcher.recipe.lock import LOCK_NAME, read_lock
from launcher.recipe.yaml_text import MAX_CHARACTERS, YamlError, read_yaml

LIMIT_BYTES = 256 << 20
TAGS = (
    "!!python/object/apply:os.mkdir [{mark}]",
    "!!python/object/new:os.mkdir [{mark}]",
    "!!python/name:os.mkdir",
    "!!python/module:os",
    "!!python/object:os.mkdir {{}}",
    "!!python/tuple [1, 2]",
    "!<tag:yaml.org,2002:python/object/apply:os.mkdir> [{mark}]",
    "!!binary aGVsbG8=",
    "!!set {{a, b}}",
    "!own word",
)
LAUGHS = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)
)
BOMBS = {
    "laughs": LAUGHS,
    "laughs in keys": LAUGHS.replace("[", "{k: [").replace("]", "]}").replace("lol, lol", "lol"),
    "itself": "a: &a [*a, *a]\n",
    "merge": "a: &a {b: 1}\nc: {<<: [*a, *a]}\n",
    "brackets": "[" * 50_000,
    "braces": "{a: " * 20_000,
    "anchors": "a: " + "&a " * 20_000,
    "long": "a: " + "x" * MAX_CHARACTERS,
    "number": "a: " + "9" * 100_000,
    "sexagesimal": "a: !!int " + "59:" * 30_000 + "59",
}


@pytest.mark.parametrize("tag", TAGS)
def test_tags_are_refused_and_run_nothing(tmp_path: Path, tag: str) -> None:
    mark = tmp_path / "mark"
    text = f"run:\n  name: {tag.format(mark=mark)}\n"
    with pytest.raises(YamlError, match="tag"):
        read_yaml(text)
    (tmp_path / LOCK_NAME).write_text(text)
    with pytest.raises(LauncherError, match="cannot be read"):
        read_lock(tmp_path)
    assert not mark.exists()


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_is_refused_in_one_line(name: str) -> None:
    start = time.process_time()
    with pytest.raises(YamlError) as error:
        read_yaml(BOMBS[name])
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300
    assert time.process_time() - start < 3


def test_bomb_takes_little_memory(tmp_path: Path) -> None:
    """In a process with a limit."""
    recipe = tmp_path / "bomb.yaml"
    recipe.write_text(LAUGHS)
    program = f"""
import resource, sys
from pathlib import Path
from launcher.recipe.parse import load_recipe
resource.setrlimit(resource.RLIMIT_DATA, ({LIMIT_BYTES}, -1))
load_recipe(Path(sys.argv[1]), [])
"""
    ended = subprocess.run([sys.executable, "-c", program, str(recipe)], capture_output=True, text=True)
    last = ended.stderr.splitlines()[-1]
    assert last == f"launcher.errors.RecipeError: {recipe}:1: too many values for a recipe"
