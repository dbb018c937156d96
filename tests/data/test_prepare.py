from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launcher.data.prepare import prepare_data
from launcher.distributed.world import World
from launcher.errors import DataError
from launcher.recipe.fields import with_values
from launcher.recipe.schema import Data
from shards.manifest import ShardsError, read_manifest
from tests.data.made import SIDE, pack_synthetic

PROGRAM = """
import shards.write as write
from launcher.data.prepare import prepare_data
from launcher.recipe.schema import Data
from launcher.distributed.world import World

real = write._pack

def counted(*arguments):
    print("packed", flush=True)
    return real(*arguments)

write._pack = counted
manifest = prepare_data(Data(source="synthetic:3x20x32", dir={folder!r}), World({rank}, 3, {rank}, 3))
print(manifest.sha256)
"""


def test_one_process_packs_and_all_get_the_same_manifest(tmp_path: Path) -> None:
    programs = [PROGRAM.format(folder=str(tmp_path / "shards"), rank=rank) for rank in (2, 1, 0)]
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for program in programs
    ]
    words = [process.communicate(timeout=100)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert sorted(len(each) for each in words) == [1, 1, 2]
    assert {each[-1] for each in words} == {read_manifest(tmp_path / "shards").sha256}


def test_shards_of_another_source_are_refused(tmp_path: Path) -> None:
    pack_synthetic(tmp_path / "shards", images_per_shard=1000)
    folder = str(tmp_path / "shards")
    wanted = Data(source=f"synthetic:3x20x{SIDE}", dir=folder)
    assert prepare_data(wanted, World()).num_images("train") == 42
    for other in (with_values(wanted, {"source": "digits"}), with_values(wanted, {"split_seed": 1})):
        with pytest.raises(DataError, match=r"shards holds 'synthetic.*the recipe asks for .*data\.dir") as error:
            prepare_data(other, World())
        assert "\n" not in str(error.value)


def test_shards_are_read_without_a_source(tmp_path: Path) -> None:
    pack_synthetic(tmp_path)
    assert prepare_data(Data(dir=str(tmp_path)), World()) == read_manifest(tmp_path)


def test_missing_shards_without_a_source_raise_shards_error(tmp_path: Path) -> None:
    with pytest.raises(ShardsError, match="no manifest"):
        prepare_data(Data(dir=str(tmp_path)), World())


def test_a_folder_that_cannot_be_created_raises_data_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"packing digits failed: .*data\.dir"):
        prepare_data(Data(source="digits", dir=str(tmp_path / "file" / "shards")), World())
