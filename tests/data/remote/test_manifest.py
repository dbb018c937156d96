"""Manifests from elsewhere: cached ones, hostile ones, and other files in their place."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from launcher.data.prepare import prepare_data
from launcher.data.remote import manifest
from launcher.distributed.world import World
from launcher.errors import UserError
from shards.manifest import MANIFEST_NAME, ShardsError
from tests.data.remote.far import change, check_one_line, data_of, expected, read_all, reader_of
from tests.data.remote.shard_server import Served, serve


def test_a_cached_manifest_is_used_without_a_network(
    few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(logging.getLogger("launcher"), "warning", lambda text, *values: warnings.append(text % values))
    with serve(few_shards) as served:
        data = data_of(served.url, tmp_path)
        read_all(reader_of(data))
    assert read_all(reader_of(data)) == expected(few_shards)
    assert warnings[-1].endswith("uses the manifest cached earlier")


def test_a_forbidden_manifest_raises_user_error_in_spite_of_a_cached_one(served: Served, tmp_path: Path) -> None:
    data = data_of(served.url, tmp_path)
    reader_of(data)
    served.fault = lambda request: "403"
    with pytest.raises(UserError, match=r"manifest.json: cannot be read \(403"):
        reader_of(data)


NAMES = [
    "../x.tar",
    "/etc/x.tar",
    "a/b.tar",
    "..",
    ".hidden.tar",
    "x.tar?y=.tar",
    "x\n.tar",
    "a\\b.tar",
    "x.npy",
    "",
    7,
    None,
]


@pytest.mark.parametrize(
    "changes",
    [
        *({"name": name} for name in NAMES),
        *({"sha256": text} for text in ("../" * 20 + "x", "A" * 64, "", 5)),
        *({"num_bytes": number} for number in (-1, 0, "9", 1e300)),
        *({"num_images": number} for number in (-7, 10**12, 8, "7")),
        {"name": "train-00001.tar"},
    ],
    ids=str,
)
def test_a_hostile_manifest_is_refused(changes: dict[str, Any], few_shards: Path, tmp_path: Path) -> None:
    change(few_shards, tmp_path / "far", **changes)
    before = sorted(tmp_path.iterdir())
    with serve(tmp_path / "far") as served:
        with pytest.raises((UserError, ShardsError)) as error:
            prepare_data(data_of(served.url, tmp_path / "cache"), World())
        check_one_line(error, served.url, "python -m shards")
        assert set(served.count()) == {MANIFEST_NAME}
    assert sorted(tmp_path.iterdir()) == [tmp_path / "cache", *before]


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": 1}', b"\x80\x04pickle", b"[" * 200_000])
def test_another_file_in_place_of_the_manifest_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with serve(tmp_path) as served, pytest.raises((UserError, ShardsError)) as error:
        prepare_data(data_of(served.url, tmp_path / "cache", remote_tries=2), World())
    check_one_line(error, served.url)


def test_a_huge_manifest_raises_user_error(served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "MAX_MANIFEST_BYTES", 1000)
    with pytest.raises(UserError, match="MiB: not a manifest"):
        reader_of(data_of(served.url, tmp_path / "cache"))
