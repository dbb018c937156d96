"""Pictures as files: which are meant, and that the network gets of each what a validation would give it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launcher.augment.pipeline import build_augment
from launcher.data.reader import ShardReader
from launcher.errors import DataError, UserError
from launcher.picture_files import find_files, read_file, to_input
from shards.manifest import read_manifest
from tests.frozen_run import Place, plain_images


def test_it_is_what_a_validation_sees(place: Place) -> None:
    ops = "augment.eval=[{op: resize, size: 24}, {op: center_crop, size: 20}]"
    loaded = place.load(ops)
    augment = loaded.recipe.augment
    mean, std = augment.normalisation((0, 0, 0), (1, 1, 1))
    built = build_augment(augment.eval_ops, mean, std)
    wanted_BCHW, _ = plain_images(loaded, "valid")
    reader = ShardReader(Path("shards"), read_manifest(Path("shards")), "valid")
    for number, wanted_CHW in enumerate(wanted_BCHW):
        sample = reader.read(number)
        assert torch.equal(to_input(sample.content, sample.place, built)[0], wanted_CHW)


def test_folders_give_their_pictures_in_order_and_files_are_taken_at_their_word(tmp_path: Path) -> None:
    for name in ("b/2.png", "b/10.jpg", "a/x/1.webp", "a/.hidden.png", "a/notes.txt", "odd"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([tmp_path / "odd", tmp_path / "b", tmp_path / "a"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["odd", "b/10.jpg", "b/2.png", "a/x/1.webp"]


def test_what_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere: no such file or folder; name pictures or folders of them$"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(UserError, match=r": no pictures there; wanted \*\."):
        find_files([tmp_path])
    with pytest.raises(DataError, match=r"cannot be read \(Is a directory\)"):
        read_file(tmp_path)
