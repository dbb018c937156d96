"""What many tests share: digits packed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.recipe.parse import load_recipe
from launcher.recipe.resolve import pack_options
from shards.write import pack
from tests.runs import DIGITS


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shards that recipes/lenet_digits.yaml packs."""
    folder = tmp_path_factory.mktemp("digits") / "shards"
    pack("digits", folder, pack_options(load_recipe(DIGITS).recipe.data))
    return folder
