"""Hostile tars, manifests and indexes: a name is only a name, and nothing in them is run."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from launcher.data.decode import decode_image
from launcher.data.reader import ShardReader
from shards.check import check
from shards.cli import main
from shards.index import index
from shards.manifest import ShardsError, read_index, read_manifest
from tests.data.made import encode
from tests.security.payload import payload_bytes

PNG = encode(Image.new("RGB", (8, 8), "red"), "PNG")
NAMES = ("../../up", "/tmp/absolute", "a/../../b", "x" * 300, "~root/home", "-rf", "new\nline", "\x1b[2Jclear")


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def add_link(tar: tarfile.TarFile, name: str, kind: bytes, target: str = "") -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    tar.addfile(info)


def add_image(tar: tarfile.TarFile, key: str, label: str = "0") -> None:
    add(tar, f"{key}.png", PNG)
    add(tar, f"{key}.cls", label.encode())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "inner" / "shards"
    made.mkdir(parents=True)
    return made


def everything(folder: Path) -> set[Path]:
    return set(folder.parent.parent.rglob("*"))


def test_hostile_names_are_only_names(folder: Path) -> None:
    with tarfile.open(folder / "train-0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name in NAMES:
            add_image(tar, name)
    before = everything(folder)
    manifest = index(folder)
    assert manifest.num_images("train") == len(NAMES)
    assert check(folder) == []
    reader = ShardReader(folder, manifest, "train")
    for i in range(len(NAMES)):
        sample = reader.read(i)
        assert decode_image(sample.content, sample.place).shape == (8, 8, 3)
    assert {path.name for path in everything(folder) - before} == {"manifest.json", "train-0.index.npy"}


def test_links_and_devices_are_ignored(folder: Path) -> None:
    secret = folder.parent / "secret.png"
    secret.write_bytes(PNG)
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        add_image(tar, "good")
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE)):
            add_link(tar, f"link{number}.png", kind, str(secret))
        for number, kind in enumerate((tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE)):
            add_link(tar, f"odd{number}.png", kind)
    assert index(folder).num_images("train") == 1


@pytest.mark.parametrize("kind", ["truncated", "number", "negative"])
def test_header_with_a_wrong_size_is_one_line(folder: Path, kind: str) -> None:
    tar = folder / "train-0.tar"
    with tarfile.open(tar, "w") as archive:
        add_image(archive, "a")
    content = bytearray(tar.read_bytes())
    size = {"truncated": b"77777777777\0", "number": b"zzzzzzzzzzz\0", "negative": b"\xff" * 12}[kind]
    content[124:136] = size
    header = content[:148] + b" " * 8 + content[156:512]
    content[148:156] = b"%06o\0 " % sum(header)
    tar.write_bytes(content)
    with pytest.raises(ShardsError) as error:
        index(folder)
    assert "\n" not in str(error.value)


def test_nul_ends_a_name(folder: Path) -> None:
    tar = folder / "train-0.tar"
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        add_image(archive, "a")
    content = bytearray(tar.read_bytes())
    content[:100] = b"a.png\0/../../evil".ljust(100, b"\0")
    content[148:156] = b"%06o\0 " % sum(content[:148] + b" " * 8 + content[156:512])
    tar.write_bytes(content)
    assert index(folder).num_images("train") == 1


def test_repeated_member_is_refused(folder: Path) -> None:
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        add_image(tar, "a")
        add_image(tar, "a", "1")
    with pytest.raises(ShardsError, match="duplicate key"):
        index(folder)


def test_pickles_in_a_shard_are_only_bytes(folder: Path) -> None:
    mark = folder.parent / "mark"
    content = payload_bytes(mark)
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        for key in ("a", "b"):
            add_image(tar, key)
            for extension in ("pyd", "pickle", "pkl", "pth", "pt", "npy", "npz", "cls.pyd"):
                add(tar, f"{key}.{extension}", content)
        add(tar, "c.png", content)
        add(tar, "c.cls", b"0")
    with pytest.raises(ShardsError, match="cannot be decoded"):
        index(folder)
    assert not mark.exists()


def test_pickle_in_an_index_is_not_loaded(folder: Path) -> None:
    mark = folder / "mark"
    content = payload_bytes(mark)
    file = io.BytesIO()
    np.save(file, np.zeros(1), allow_pickle=False)
    head = file.getvalue()[:128].replace(b"'<f8'", b"'|O' ")
    for hostile in (content, head + content):
        (folder / "train-0.index.npy").write_bytes(hostile)
        with pytest.raises(ShardsError, match="cannot be read"):
            read_index(folder / "train-0.tar")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["../outside.tar", "/dev/zero", "a/../../b.tar", "", ".."])
def test_manifest_names_only_files_of_its_folder(folder: Path, name: str) -> None:
    with tarfile.open(folder / "train-0.tar", "w") as tar:
        add_image(tar, "a")
    index(folder)
    raw = json.loads((folder / "manifest.json").read_text())
    raw["shards"][0]["name"] = name
    (folder / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(ShardsError, match="is not a file name"):
        read_manifest(folder)


def test_names_do_not_reach_the_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)  # rich would draw its progress bar with escape sequences
    with tarfile.open(folder / "train-0.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        add_image(tar, "\x1b[2J\x1b]0;title\x07a", "\x1b[31mred")
        add(tar, "\x1b[2Jb.png", b"no image")
        add(tar, "\x1b[2Jb.cls", b"\x1b[31mred")
    assert main(["index", str(folder)]) == 2
    captured = capsys.readouterr()
    assert "\\x1b[2Jb: cannot be decoded" in captured.err
    assert "\x1b" not in captured.out + captured.err
