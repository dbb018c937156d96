"""Files, folders, patterns and shards as one row of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from launcher.data.pictures import UNKNOWN, find_pictures
from launcher.errors import UserError
from tests.judged_run import CLASSES, read_split, write_files


def test_everything_is_read_in_the_order_in_which_it_is_named(few_shards: Path, tmp_path: Path) -> None:
    paths = sorted(write_files(few_shards, "test", tmp_path / "files"))
    (tmp_path / "files/note.txt").write_text("no picture")
    single = tmp_path / "single.jpeg"
    single.write_bytes(paths[0].read_bytes())
    members = read_split(few_shards, "valid")
    words = [str(single), str(few_shards), str(tmp_path / "files/*0/*"), str(tmp_path / "files")]
    reader = find_pictures(words, CLASSES[::-1], "valid")
    of_class_0 = [path for path in paths if path.parent.name == "class_0"]
    expected = [
        (str(single), single.read_bytes(), UNKNOWN),
        *((f"{few_shards}/{each.name}", each.content, 2 - each.label) for each in members),
        *((str(path), path.read_bytes(), 2) for path in of_class_0),
        *((str(path), path.read_bytes(), 2 - CLASSES.index(path.parent.name)) for path in paths),
    ]
    found = [(reader.name_of(i), reader.read(i)) for i in range(reader.num_images)]
    assert [(name, sample.content, sample.label) for name, sample in found] == expected
    assert next(iter(reader.look_ahead([(0, np.arange(3))])))[1].tolist() == [0, 1, 2]


def test_all_splits_of_shards_where_none_is_named(few_shards: Path) -> None:
    reader = find_pictures([str(few_shards)], CLASSES, None)
    members = [member for split in ("train", "valid", "test") for member in read_split(few_shards, split)]
    assert reader.num_images == 60
    assert [reader.name_of(i) for i in range(60)] == [f"{few_shards}/{member.name}" for member in members]
    assert [reader.read(i).content for i in range(60)] == [member.content for member in members]


def test_every_word_that_is_wrong_has_its_line(few_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ants.jpg").write_bytes(b"")
    words = [str(tmp_path / name) for name in ("ant.jpg", "empty", "*.png", "ants.jpg")]
    with pytest.raises(UserError) as error:
        find_pictures([*words, str(few_shards)], CLASSES, "tset")
    lines = str(error.value).splitlines()
    assert lines == [
        f"{words[0]}: no such file, folder or pattern; did you mean '{words[3]}'?",
        f"{words[1]}: no pictures there; wanted *.{{jpg,jpeg,png,webp}}, or a folder of shards",
        f"{words[2]}: no pictures there; wanted *.{{jpg,jpeg,png,webp}}, or a folder of shards",
        f"--split tset: {few_shards} has none of that name; did you mean 'test'?",
    ]


def test_it_holds_its_files_by_any_name(few_shards: Path, tmp_path: Path) -> None:
    [path, other, *_] = write_files(few_shards, "test", tmp_path / "files")
    reader = find_pictures([str(path), str(few_shards)], CLASSES, None)
    (tmp_path / "link").symlink_to(path)
    assert reader.holds(path)
    assert reader.holds(path.parent / ".." / path.parent.name / path.name)
    assert reader.holds(tmp_path / "link")
    assert not reader.holds(other)
    assert not reader.holds(tmp_path / "absent")
