"""Files at URLs that cannot be opened, and servers that fail, now and then or always."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from launcher.data.prepare import prepare_data
from launcher.distributed.world import World
from launcher.errors import FetchError, UserError
from tests.data.remote.far import check_one_line, data_of, expected, read_all, reader_of
from tests.data.remote.shard_server import Served, serve
from tests.harness.runs import free_port


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError) as error:
        prepare_data(data_of("gs://bucket/x", tmp_path), World())
    check_one_line(error, "data.dir: gs://bucket/x: pip install 'launcher[gcs]' first (")


def test_an_unknown_protocol_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        prepare_data(data_of("htp://bucket/x", tmp_path), World())
    check_one_line(error, "data.dir: htp://bucket/x: cannot be opened (Protocol not known: htp)")


@pytest.mark.parametrize("fault", ["503", "cut", "wrong"])
def test_requests_that_fail_are_retried(
    fault: str, served: Served, few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(logging.getLogger("launcher"), "warning", lambda text, *values: warnings.append(text % values))
    served.fault = lambda request: fault if request.number == 1 else None
    reader = reader_of(data_of(served.url, tmp_path)) if fault != "wrong" else None
    if reader is None:  # a manifest has no hash of its own
        served.fault = lambda request: fault if request.number == 1 and request.name.endswith(".tar") else None
        reader = reader_of(data_of(served.url, tmp_path))
    assert read_all(reader) == expected(few_shards)
    assert reader.folder.traffic.num_retries == (6 if fault == "wrong" else 12)
    assert len(warnings) == (1 if fault == "wrong" else 2)  # of the manifest, and of the first shard
    assert all("retrying" in line and served.url in line for line in warnings)


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/x"
    with pytest.raises(UserError) as error:
        reader_of(data_of(url, tmp_path, remote_tries=2))
    check_one_line(error, f"{url}/manifest.json: cannot be read after 2 tries (")


@pytest.mark.parametrize("fault", ["403", "404"])
def test_a_forbidden_or_missing_file_is_requested_once(fault: str, few_shards: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    for path in few_shards.iterdir():
        if path.name != "train-00001.tar" or fault == "403":
            (folder / path.name).write_bytes(path.read_bytes())
    with serve(folder) as served:
        served.fault = lambda request: fault if request.name == "train-00001.tar" and fault == "403" else None
        reader = reader_of(data_of(served.url, tmp_path / "cache"))
        with pytest.raises(FetchError) as error:
            read_all(reader)
        check_one_line(error, f"{served.url}/train-00001.tar: cannot be read (", "check data.dir")
        assert served.count()["train-00001.tar"] == 1


def test_a_signature_in_a_redirect_is_not_shown(served: Served, tmp_path: Path) -> None:
    served.fault = lambda request: (
        f"http://user:pass@127.0.0.1:{free_port()}/x?X-Amz-Signature=abc123" if request.name.endswith(".tar") else None
    )
    reader = reader_of(data_of(served.url, tmp_path, remote_tries=1))
    with pytest.raises(FetchError) as error:
        reader.read(0)
    check_one_line(error, "train-00000.tar: cannot be read")
    served.fault = lambda request: f"{served.url}/none?X-Amz-Signature=abc123" if request.name != "none" else "403"
    with pytest.raises(UserError) as second:
        reader_of(data_of(served.url, tmp_path / "other", remote_tries=1))
    for text in (str(error.value), str(second.value)):
        assert "abc123" not in text
        assert "pass" not in text
    check_one_line(second, "none?***")
