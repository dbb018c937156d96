"""Features on disk: written by several ranks, read back whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.data.features.format import (
    Features,
    Layout,
    Records,
    Value,
    commit_features,
    key_of,
    open_features,
    write_part,
)
from launcher.data.ids import portion_ids

VALUES = (Value("float32", (2, 3)), Value("bfloat16", (5,)))
KEY = "abc"


def records_of(layout: Layout) -> Records:
    """Record i differs from all others in each of its values and in its label, which is i."""
    generator = np.random.default_rng(0)
    records = generator.integers(0, 256, (layout.num_images, layout.record_bytes), dtype=np.uint8)
    records[:, -8:] = np.arange(layout.num_images, dtype=np.int64)[:, None].view(np.uint8)
    return records


def write_all(temporary: Path, layout: Layout, batch: int = 4) -> Records:
    """Each part in batches, as the ranks of a run write them."""
    records = records_of(layout)
    temporary.mkdir(parents=True)
    for part in range(layout.num_parts):
        ids = portion_ids(layout.num_images, layout.num_parts, batch, part)
        write_part(temporary, part, (records[ids_B[ids_B >= 0]] for ids_B in ids))
    return records


def write_features(root: Path, num_images: int = 10, num_parts: int = 2) -> tuple[Features, Records]:
    layout = Layout(VALUES, num_images, num_parts)
    records = write_all(root / ".new", layout)
    commit_features(root / ".new", root, KEY, {"split": "train"}, layout)
    features = open_features(root, KEY)
    assert features is not None
    return features, records


@pytest.mark.parametrize(("num_images", "num_parts"), [(1, 1), (10, 1), (10, 2), (10, 3), (7, 4), (3, 5), (1, 3)])
def test_records_are_read_as_they_were_written(tmp_path: Path, num_images: int, num_parts: int) -> None:
    features, records = write_features(tmp_path, num_images, num_parts)
    ids_B = np.random.default_rng(1).permutation(np.tile(np.arange(num_images), 2))
    (first, second), labels_B = features.read(ids_B)
    assert (first.shape, second.shape) == ((len(ids_B), 24), (len(ids_B), 10))
    assert np.array_equal(np.concatenate([first, second], axis=1), records[ids_B, :-8])
    assert labels_B.tolist() == ids_B.tolist()


def test_padding_reads_the_first_image(tmp_path: Path) -> None:
    features, records = write_features(tmp_path)
    (first, _), labels_B = features.read(np.array([3, -1, 9, -1]))
    assert labels_B.tolist() == [3, 0, 9, 0]
    assert np.array_equal(first[1], records[0, :24])


@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 24), ("bfloat16", 12), ("float16", 12)])
def test_a_value_takes_its_dtypes_bytes(dtype: Any, num_bytes: int) -> None:
    assert Value(dtype, (2, 3)).num_bytes == num_bytes
    assert Layout((Value(dtype, (2, 3)),), 10, 1).num_bytes == 10 * (num_bytes + 8)


def test_metadata_are_written_beside_the_values(tmp_path: Path) -> None:
    write_features(tmp_path)
    metadata = json.loads((tmp_path / KEY / "features.json").read_text())
    assert metadata["split"] == "train"
    assert metadata["bytes"] == sum(path.stat().st_size for path in (tmp_path / KEY).glob("part-*.bin"))


def test_missing_features_are_none(tmp_path: Path) -> None:
    assert open_features(tmp_path, KEY) is None


@pytest.mark.parametrize("part", [0, 1])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_part_of_another_size_is_none(tmp_path: Path, part: int, change: int) -> None:
    write_features(tmp_path)
    file = tmp_path / KEY / f"part-{part:04d}.bin"
    content = file.read_bytes()
    file.write_bytes(content[:-1] if change < 0 else content + b"x")
    assert open_features(tmp_path, KEY) is None


@pytest.mark.parametrize("part", ["part-0000.bin", "part-0001.bin", "features.json"])
def test_a_missing_file_is_none(tmp_path: Path, part: str) -> None:
    write_features(tmp_path)
    (tmp_path / KEY / part).unlink()
    assert open_features(tmp_path, KEY) is None


@pytest.mark.parametrize(
    "garbage",
    ["", "{", "[]", "null", "7", '"x"', "{}", '{"layout": 3}', '{"layout": {"values": [1]}}', "\x00\xff"]
    + [json.dumps({"layout": {"values": [], "num_images": 10, "num_parts": parts}}) for parts in (0, "2", None)],
)
def test_garbage_for_metadata_is_none(tmp_path: Path, garbage: str) -> None:
    write_features(tmp_path)
    (tmp_path / KEY / "features.json").write_bytes(garbage.encode("latin-1"))
    assert open_features(tmp_path, KEY) is None


def test_incomplete_features_are_replaced(tmp_path: Path) -> None:
    write_features(tmp_path)
    (tmp_path / KEY / "part-0001.bin").write_bytes(b"")
    write_features(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_an_interrupted_commit_leaves_nothing_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = Layout(VALUES, 10, 2)
    write_all(tmp_path / ".new", layout)
    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(f"os.{name}", lambda *_: (_ for _ in ()).throw(OSError("full")))
            with pytest.raises(OSError, match="full"):
                commit_features(tmp_path / ".new", tmp_path, KEY, {}, layout)
        assert open_features(tmp_path, KEY) is None
    commit_features(tmp_path / ".new", tmp_path, KEY, {}, layout)
    assert open_features(tmp_path, KEY) is not None


def test_two_runs_that_commit_the_same_features_both_read_them(tmp_path: Path) -> None:
    layout = Layout(VALUES, 10, 2)
    records = write_all(tmp_path / ".a", layout)
    write_all(tmp_path / ".b", layout)
    commit_features(tmp_path / ".a", tmp_path, KEY, {}, layout)
    first = open_features(tmp_path, KEY)
    inode = (tmp_path / KEY / "part-0000.bin").stat().st_ino
    commit_features(tmp_path / ".b", tmp_path, KEY, {}, layout)
    assert [path.name for path in tmp_path.iterdir()] == [KEY]
    assert (tmp_path / KEY / "part-0000.bin").stat().st_ino == inode, "the files that the first run reads were replaced"
    for features in (first, open_features(tmp_path, KEY)):
        assert features is not None
        assert np.array_equal(features.read(np.arange(10))[0][0], records[:, :24])


def test_a_commit_during_another_runs_commit_keeps_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other run commits between the check and the rename."""
    layout = Layout(VALUES, 10, 2)
    for name in (".a", ".b"):
        write_all(tmp_path / name, layout)
    rename = Path.rename

    def other_first(path: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        commit_features(tmp_path / ".b", tmp_path, KEY, {}, layout)
        return path.rename(target)

    monkeypatch.setattr(Path, "rename", other_first)
    commit_features(tmp_path / ".a", tmp_path, KEY, {}, layout)
    assert open_features(tmp_path, KEY) is not None
    assert [path.name for path in tmp_path.iterdir()] == [KEY]


def test_the_key_depends_on_all_metadata_and_not_on_their_order() -> None:
    metadata: dict[str, Any] = {"split": "train", "drawn": {"seed": 0, "view": 0}, "transform": {"ops": [{"size": 32}]}}
    changed: list[dict[str, Any]] = [
        {"split": "valid"},
        {"drawn": None},
        {"drawn": {"seed": 1, "view": 0}},
        {"drawn": {"seed": 0, "view": 1}},
        {"transform": {"ops": [{"size": 33}]}},
    ]
    assert len({key_of(metadata), *(key_of({**metadata, **change}) for change in changed)}) == 6
    assert key_of(dict(reversed(metadata.items()))) == key_of(metadata)
