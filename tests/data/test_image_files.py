"""Files, folders, patterns and shards read as one split."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from launcher.data.image_files import UNKNOWN, find_images
from launcher.errors import DataError, UserError
from tests.harness.evaluated_run import CLASSES, read_split, write_files


def test_images_are_read_in_the_order_of_the_words(few_shards: Path, tmp_path: Path) -> None:
    paths = sorted(write_files(few_shards, "test", tmp_path / "files"))
    (tmp_path / "files/note.txt").write_text("not an image")
    single = tmp_path / "single.jpeg"
    single.write_bytes(paths[0].read_bytes())
    members = read_split(few_shards, "valid")
    words = [str(single), str(few_shards), str(tmp_path / "files/*0/*"), str(tmp_path / "files")]
    reader = find_images(words, CLASSES[::-1], "valid")
    of_class_0 = [path for path in paths if path.parent.name == "class_0"]
    expected = [
        (str(single), single.read_bytes(), UNKNOWN),
        *((f"{few_shards}/{each.name}", each.content, 2 - each.label) for each in members),
        *((str(path), path.read_bytes(), 2) for path in of_class_0),
        *((str(path), path.read_bytes(), 2 - CLASSES.index(path.parent.name)) for path in paths[len(of_class_0) :]),
    ]
    found = [(reader.name_of(i), reader.read(i)) for i in range(reader.num_images)]
    assert [(name, sample.content, sample.label) for name, sample in found] == expected
    assert next(iter(reader.look_ahead([(0, np.arange(3))])))[1].tolist() == [0, 1, 2]


def test_all_splits_of_shards_are_read_where_none_is_named(few_shards: Path) -> None:
    reader = find_images([str(few_shards)], CLASSES, None)
    members = [member for split in ("train", "valid", "test") for member in read_split(few_shards, split)]
    assert reader.num_images == 60
    assert [reader.name_of(i) for i in range(60)] == [f"{few_shards}/{member.name}" for member in members]
    assert [reader.read(i).content for i in range(60)] == [member.content for member in members]


def test_every_wrong_word_has_a_line_of_the_error(few_shards: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "ants.jpg").write_bytes(b"")
    words = [str(tmp_path / name) for name in ("ant.jpg", "empty", "*.png", "ants.jpg")]
    with pytest.raises(UserError) as error:
        find_images([*words, str(few_shards)], CLASSES, "tset")
    lines = str(error.value).splitlines()
    assert lines == [
        f"{words[0]}: no such file, folder or pattern; did you mean '{words[3]}'?",
        f"{words[1]}: no images there; expected *.{{jpg,jpeg,png,webp}} or a folder of shards",
        f"{words[2]}: no images there; expected *.{{jpg,jpeg,png,webp}} or a folder of shards",
        f"--split tset: {few_shards} has no such split; did you mean 'test'?",
    ]


def test_a_reader_holds_its_files_by_any_name(few_shards: Path, tmp_path: Path) -> None:
    [path, other, *_] = write_files(few_shards, "test", tmp_path / "files")
    reader = find_images([str(path), str(few_shards)], CLASSES, None)
    (tmp_path / "link").symlink_to(path)
    assert reader.holds(path)
    assert reader.holds(path.parent / ".." / path.parent.name / path.name)
    assert reader.holds(tmp_path / "link")
    assert not reader.holds(other)
    assert not reader.holds(tmp_path / "absent")


def test_each_image_is_read_once(few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = sorted(write_files(few_shards, "test", tmp_path / "files"))
    monkeypatch.chdir(tmp_path)
    words = [str(paths[4]), "files", str(tmp_path / "files"), "files/../files/*/*", str(few_shards), f"{few_shards}/"]
    reader = find_images(words, CLASSES, "test")
    names = [str(paths[4]), *(str(path.relative_to(tmp_path)) for path in paths if path != paths[4])]
    assert [reader.name_of(i) for i in range(9)] == names
    assert reader.num_images == 18


def test_a_split_needs_a_folder_of_shards(few_shards: Path, tmp_path: Path) -> None:
    write_files(few_shards, "test", tmp_path / "files")
    with pytest.raises(UserError) as error:
        find_images([str(tmp_path / "files")], CLASSES, "valid")
    assert str(error.value) == "--split valid: needs a folder of shards and none is given; omit --split, or give one"
    assert find_images([str(tmp_path / "files"), str(few_shards)], CLASSES, "valid").num_images > 9


def test_unreadable_files_are_found_and_folders_are_searched(few_shards: Path, tmp_path: Path) -> None:
    [path, *_] = write_files(few_shards, "test", tmp_path / "files")
    folder, inner = tmp_path / "pics", tmp_path / "pics/x.jpg/y.jpg"
    inner.parent.mkdir(parents=True)
    inner.write_bytes(path.read_bytes())
    (folder / "link.jpg").symlink_to("nowhere")
    os.mkfifo(folder / "pipe.jpg")
    for words in ([folder], [folder / "*"], [folder / "link.jpg", folder / "pipe.jpg", folder / "x.jpg"]):
        reader = find_images([str(word) for word in words], CLASSES, None)
        assert [reader.name_of(i) for i in range(3)] == [str(folder / "link.jpg"), str(folder / "pipe.jpg"), str(inner)]
        assert reader.num_images == 3
        assert reader.read(2).content == path.read_bytes()
        with pytest.raises(DataError, match=r"link.jpg: cannot be read \(No such file or directory\); repair or"):
            reader.read(0)
        with pytest.raises(DataError, match=r"pipe.jpg: cannot be read \(not a regular file\); repair or remove it$"):
            reader.read(1)
