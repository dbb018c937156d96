"""`launcher cache`: what it lists, what it removes, and what it never touches."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from launcher.cli.main import run
from launcher.commands.runs.feature_cache import LEFTOVER_S
from launcher.data.features.format import Layout, Value, commit_features, key_of, open_features, write_part
from launcher.text import show_bytes
from tests.harness.runs import ROOT

NUM_IMAGES = 6
VALUES = (Value("float32", (3, 2)), Value("bfloat16", (5,)))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("data/features")


def keep(root: Path, split: str, view: int | None = None) -> str:
    """Features as a run keeps them; their key."""
    drawn = None if view is None else {"seed": 0, "view": view}
    metadata = {"backbone": "timm/some_net", "split": split, "drawn": drawn}
    key, layout = key_of(metadata), Layout(VALUES, NUM_IMAGES, 1)
    temporary = root / f".{key}-0123abcd"
    temporary.mkdir(parents=True)
    write_part(temporary, 0, [np.zeros((NUM_IMAGES, layout.record_bytes), dtype=np.uint8)])
    commit_features(temporary, root, key, metadata, layout)
    assert open_features(root, key) is not None
    return key


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*"))


def leave(root: Path, age_s: float) -> Path:
    """The folder of a computation that was killed, or still runs."""
    folder = root / f".{'ab' * 12}-0123abcd"
    folder.mkdir(parents=True)
    (folder / "part-0000.bin").write_bytes(bytes(1000))
    for path in (folder / "part-0000.bin", folder):
        os.utime(path, (time.time() - age_s,) * 2)
    return folder


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_ls_shows_the_metadata_of_each_entry(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [keep(root, "train", view=2), keep(root, "valid")]
    assert run(["cache", "ls"]) == 0
    out = capsys.readouterr().out
    values = "3 x 2 float32, 5 bfloat16"
    shown = {cells[0]: cells[1:] for cells in rows(out)}
    sizes = [show_bytes(size_of(root / key)) for key in keys]
    assert shown[keys[0]][:6] == ["timm/some_net", "train", "3", "6", values, sizes[0]]
    assert shown[keys[1]][:6] == ["timm/some_net", "valid", "", "6", values, sizes[1]]
    assert all(re.fullmatch(r"\d+ s ago", cells[6]) for cells in shown.values())
    total = sum(size_of(root / key) for key in keys)
    assert out.splitlines()[-1] == f"data/features: {show_bytes(total)} of features"


def test_ls_shows_empty_caches_and_damaged_entries(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "ls"]) == 0
    assert capsys.readouterr().out == "data/features: 0 bytes of features\n"
    key = keep(root, "train")
    (root / key / "features.json").write_text("{")
    unfinished = leave(root, 30)
    assert run(["cache", "ls"]) == 0
    out = capsys.readouterr().out
    shown = {cells[0]: cells[1:] for cells in rows(out)}
    assert shown[key][0] == "not readable"
    assert (shown[unfinished.name][0], shown[unfinished.name][5]) == ("unfinished", "1000 bytes")


def test_rm_takes_the_beginning_of_a_key(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [keep(root, "train"), keep(root, "valid")]
    num_bytes = size_of(root / keys[0])
    assert run(["cache", "rm", keys[0][:5]]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"removed data/features/{keys[0]}, {show_bytes(num_bytes)}",
        f"freed {num_bytes:,} bytes",
    ]
    assert [path.name for path in root.iterdir()] == [keys[1]]


def test_rm_all_leaves_folders_of_other_names(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [keep(root, "train"), keep(root, "valid")]
    total = sum(size_of(root / key) for key in keys)
    (root / "notes.txt").write_text("mine")
    (root / "mine").mkdir()
    assert run(["cache", "rm", "--all"]) == 0
    assert capsys.readouterr().out.endswith(f"freed {total:,} bytes\n")
    assert sorted(path.name for path in root.iterdir()) == ["mine", "notes.txt"]
    assert run(["cache", "rm", "--all"]) == 0
    assert capsys.readouterr().out == "freed 0 bytes\n"


def test_rm_takes_leftovers_but_nothing_that_is_being_written(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old = leave(root, 2 * LEFTOVER_S)
    assert run(["cache", "rm", "--all"]) == 0
    assert capsys.readouterr().out == f"removed {old}, 1000 bytes\nfreed 1,000 bytes\n"
    assert not old.exists()
    new = leave(root, 0)
    assert run(["cache", "rm", "--all"]) == 0
    kept = f"kept {new}, which was written to in the last 10 min"
    assert capsys.readouterr().out == f"{kept}\nfreed 0 bytes\n"
    assert new.exists()


def test_rm_succeeds_after_a_removal_that_was_cut_short(root: Path) -> None:
    key = keep(root, "train")
    half_removed = root / f".{key}-00000000"
    half_removed.mkdir()
    (half_removed / "part-0000.bin").touch()
    assert run(["cache", "rm", key]) == 0
    assert list(root.iterdir()) == [half_removed]


def test_rm_of_one_key_takes_leftovers_and_no_other_key(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys, old = [keep(root, "train"), keep(root, "valid")], leave(root, 2 * LEFTOVER_S)
    assert run(["cache", "rm", keys[0]]) == 0
    assert f"removed {old}, 1000 bytes\n" in capsys.readouterr().out
    assert [path.name for path in root.iterdir()] == [keys[1]]
    assert run(["cache", "rm", old.name]) == 2
    assert f"cache rm {old.name}: no such key in data/features; " in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--all"], ["KEY"]])
def test_links_are_never_followed(root: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in the place of features, nor inside of them."""
    outside = Path("outside")
    outside.mkdir()
    (outside / "precious").write_text("1234")
    key = keep(root, "train")
    (root / key / "more").symlink_to(outside.absolute())
    link = root / ("0" * 24)
    link.symlink_to(outside.absolute())
    assert run(["cache", "ls"]) == 0
    assert ["0" * 24, "a link, not followed"] in [cells[:2] for cells in rows(capsys.readouterr().out)]
    keys = [key, "000"] if arguments == ["KEY"] else ["--all"]
    for each in keys:
        assert run(["cache", "rm", each]) == 0
    assert (outside / "precious").read_text() == "1234"
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "cache rm: give a key of launcher cache ls, or the beginning of one, or --all"),
        (["abc", "--all"], "cache rm: give a key of launcher cache ls, or the beginning of one, or --all"),
        (["../features"], "cache rm ../features: no such key in data/features; valid: "),
        ([""], "cache rm: give a key"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], expected: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = keep(root, "train")
    assert run(["cache", "rm", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert len(error.splitlines()) == 1
    assert open_features(root, key) is not None


def test_unknown_and_ambiguous_keys_are_one_line(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "rm", "abc"]) == 2
    assert capsys.readouterr().err == "launcher: cache rm abc: no such key in data/features\n"
    key = keep(root, "train")
    typo = ("0" if key[0] != "0" else "1") + key[1:8]
    assert run(["cache", "rm", typo]) == 2
    error = f"cache rm {typo}: no such key in data/features; did you mean '{key[:8]}'?"
    assert capsys.readouterr().err == f"launcher: {error}\n"
    twin = key[:-1] + ("0" if key[-1] != "0" else "1")
    (root / twin).mkdir()
    assert run(["cache", "rm", key[:6]]) == 2
    error = f"cache rm {key[:6]}: 2 keys begin like this; give more of the key"
    assert capsys.readouterr().err == f"launcher: {error}\n"


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    """As to a larger disk."""
    Path("disk").mkdir()
    root.parent.mkdir()
    root.symlink_to(Path("disk").absolute())
    key = keep(root, "train")
    assert run(["cache", "rm", key]) == 0
    assert list(Path("disk").iterdir()) == []


def test_torch_is_not_loaded(tmp_path: Path) -> None:
    code = "import sys, launcher.cli.main; launcher.cli.main.run(['cache', 'ls']); sys.exit('torch' in sys.modules)"
    root = str(ROOT)
    environment = {**os.environ, "PYTHONPATH": root}
    ended = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    assert ended.returncode == 0


def test_metadata_has_the_keys_that_the_table_reads(root: Path) -> None:
    metadata = json.loads((root / keep(root, "train") / "features.json").read_text())
    assert metadata["layout"]["values"] == [{"dtype": v.dtype, "shape": list(v.shape)} for v in VALUES]
