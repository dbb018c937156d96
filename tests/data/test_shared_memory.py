"""Memory that the processes of a node share."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from launcher.data.shared_memory import create_shared, free_bytes, map_shared, shared_folder


def test_shared_memory_is_private_to_its_user_and_outlives_its_name(tmp_path: Path) -> None:
    path = tmp_path / "block"
    create_shared(path, 5000)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    one, two = map_shared(path, 5000), map_shared(path, 5000)
    path.unlink()
    one[4999] = 7
    assert two.tolist() == [0] * 4999 + [7]


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_existing_file_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "block", tmp_path / "other"
    other.write_text("mine")
    path.symlink_to(other) if kind == "link" else path.write_text("mine")
    with pytest.raises(FileExistsError):
        create_shared(path, 10)
    assert path.read_text() == "mine"


def test_too_large_a_block_raises_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"No space left|File too large"):
        create_shared(tmp_path / "block", 2**62)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [None, 9])
def test_a_missing_file_or_one_of_another_size_is_not_mapped(tmp_path: Path, size: int | None) -> None:
    if size is not None:
        (tmp_path / "block").write_bytes(bytes(size))
    with pytest.raises(FileNotFoundError):
        map_shared(tmp_path / "block", 10)
    assert (tmp_path / "block").exists() == (size is not None)


def test_free_memory_is_less_than_all_memory() -> None:
    whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < free_bytes(is_shared=True) <= free_bytes(is_shared=False) < whole
    assert shared_folder().is_dir()
