from __future__ import annotations

import json
from pathlib import Path

import pytest

from launcher.checkpoint.network_spec import SPEC_NAME, read_spec
from launcher.errors import CheckpointError
from launcher.run.journal import render_json
from tests.harness.small_run import SPEC


def test_a_spec_is_read_as_it_was_written(tmp_path: Path) -> None:
    (tmp_path / SPEC_NAME).write_text(render_json(SPEC.to_json(), indent=1))
    assert read_spec(tmp_path) == SPEC


def test_a_missing_spec_is_a_checkpoint_error(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        read_spec(tmp_path)
    assert str(error.value) == f"{tmp_path}/network.json: cannot be read (No such file or directory)"


@pytest.mark.parametrize("key", ["recipe", "classes", "mean", "std"])
def test_a_spec_without_one_of_its_keys_is_of_another_version(tmp_path: Path, key: str) -> None:
    values = SPEC.to_json()
    del values[key]
    (tmp_path / SPEC_NAME).write_text(json.dumps(values))
    check_other_version(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "null", '{"recipe": {"backbone": 3}}'])
def test_another_content_is_of_another_version(tmp_path: Path, content: str) -> None:
    (tmp_path / SPEC_NAME).write_text(content)
    check_other_version(tmp_path)


def test_a_recipe_with_an_unknown_key_is_of_another_version(tmp_path: Path) -> None:
    values = SPEC.to_json()
    values["recipe"]["data"]["max_left_out"] = 0.1
    (tmp_path / SPEC_NAME).write_text(json.dumps(values))
    check_other_version(tmp_path)


def check_other_version(folder: Path) -> None:
    with pytest.raises(CheckpointError) as error:
        read_spec(folder)
    assert str(error.value) == f"{folder}/network.json: another version wrote it"
