"""Shards from servers on this machine that fail in every way, through a cache."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launcher.data.prepare import open_folder, prepare_data
from launcher.data.reader import ShardReader
from launcher.data.remote import origin, remote
from launcher.distributed.world import World
from launcher.errors import FetchError, UserError
from launcher.recipe.schema import Data
from shards.manifest import MANIFEST_NAME, ShardsError, read_manifest
from tests.data.remote.shard_server import Request, Served, serve
from tests.harness.runs import free_port

SPLITS = {"train": 42, "valid": 9, "test": 9}


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origin, "FIRST_PAUSE_S", 0.001)


@pytest.fixture
def served(few_shards: Path) -> Iterator[Served]:
    with serve(few_shards) as served:
        yield served


def data_of(url: str, cache: Path, **keys: Any) -> Data:
    return Data(dir=url, remote_cache=str(cache), **keys)


def reader_of(data: Data, split: str = "train", num_local: int = 1) -> ShardReader:
    world = World(0, num_local, 0, num_local)
    manifest = prepare_data(data, world)
    return ShardReader(open_folder(data, manifest, world), manifest, split)


def read_all(reader: ShardReader) -> list[tuple[bytes, int]]:
    return [(sample.content, sample.label) for sample in map(reader.read, range(reader.num_images))]


def expected(folder: Path, split: str = "train") -> list[tuple[bytes, int]]:
    return read_all(ShardReader(folder, read_manifest(folder), split))


def tars(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*/*.tar"))


@pytest.mark.parametrize("split", SPLITS)
def test_what_comes_is_what_is_there(split: str, served: Served, few_shards: Path, tmp_path: Path) -> None:
    reader = reader_of(data_of(served.url, tmp_path), split)
    assert read_all(reader) == expected(few_shards, split)
    assert reader.read(0).place == f"{served.url}/{split}-00000.tar: image 0"
    assert reader.folder.traffic.num_shards == len(reader.shards)
    assert set(served.count().values()) == {1}


def test_any_fsspec_url(few_shards: Path, tmp_path: Path) -> None:
    assert read_all(reader_of(data_of(f"file://{few_shards}", tmp_path))) == expected(few_shards)


def test_another_run_finds_it_here(served: Served, few_shards: Path, tmp_path: Path) -> None:
    data = data_of(served.url + "/", tmp_path)
    read_all(reader_of(data))
    assert read_all(reader_of(data)) == expected(few_shards)
    assert served.count() == {MANIFEST_NAME: 2} | {
        name: 1 for i in range(6) for name in (f"train-0000{i}.tar", f"train-0000{i}.index.npy")
    }


def test_threads_that_want_the_same_wait_for_one_download(served: Served, few_shards: Path, tmp_path: Path) -> None:
    served.fault = lambda request: "slow"
    reader = reader_of(data_of(served.url, tmp_path), "valid")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.read, [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 8]))
    assert found[-1].content == expected(few_shards, "valid")[8][0]
    assert set(served.count().values()) == {1}


PROGRAM = """
import sys
from launcher.data.remote import remote
from tests.data.remote.test_remote import *
remote.CHUNK_BYTES = {chunk}
print("starts", flush=True)
reader = reader_of(data_of({url!r}, Path({cache!r})), num_local=2)
print(len(read_all(reader)), reader.folder.traffic.num_bytes)
"""


def start_reading(url: str, cache: Path, chunk: int = 8 << 20) -> subprocess.Popen[str]:
    program = PROGRAM.format(url=url, cache=str(cache), chunk=chunk)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)


def test_processes_of_a_node_share_one_download(served: Served, tmp_path: Path) -> None:
    served.fault = lambda request: "slow" if request.name == "train-00000.tar" else None
    processes = [start_reading(served.url, tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=60)[0].split()[1] for process in processes] == ["42", "42"]
    assert {name: number for name, number in served.count().items() if number > 1} == {MANIFEST_NAME: 2}


def test_a_killed_download_goes_on_where_it_stopped(served: Served, few_shards: Path, tmp_path: Path) -> None:
    """And its lock ends with it."""
    served.fault = lambda request: "slow" if request.name == "train-00000.tar" else None
    process = start_reading(served.url, tmp_path, chunk=1000)
    while served.count()["train-00000.tar"] < 4:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = len(served.requests)
    reader = reader_of(data_of(served.url, tmp_path))
    assert read_all(reader) == expected(few_shards)
    starts = [request.start for request in served.requests[before:] if request.name == "train-00000.tar"]
    assert len(starts) == 1
    assert starts[0] >= 2000
    assert reader.folder.traffic.num_retries == 0


@pytest.mark.parametrize("fault", ["503", "cut", "wrong"])
def test_a_server_that_fails_now_and_then(
    fault: str, served: Served, few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = []
    monkeypatch.setattr(logging.getLogger("launcher"), "warning", lambda text, *values: words.append(text % values))
    served.fault = lambda request: fault if request.number == 1 else None
    reader = reader_of(data_of(served.url, tmp_path)) if fault != "wrong" else None
    if reader is None:  # a manifest has no hash of its own
        served.fault = lambda request: fault if request.number == 1 and request.name.endswith(".tar") else None
        reader = reader_of(data_of(served.url, tmp_path))
    assert read_all(reader) == expected(few_shards)
    assert reader.folder.traffic.num_retries == (6 if fault == "wrong" else 12)
    assert len(words) == (1 if fault == "wrong" else 2)  # of the manifest, and of the first shard
    assert all("trying again" in line and served.url in line for line in words)


def test_less_is_asked_for_where_a_line_is_cut_again_and_again(
    served: Served, few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = (few_shards / "train-00000.tar").stat().st_size

    def fault(request: Request) -> str | None:
        return "cut" if request.name == "train-00000.tar" and request.number in (1, 2, 3) else None

    served.fault = fault
    monkeypatch.setattr(remote, "LEAST_BYTES", 1000)
    assert read_all(reader_of(data_of(served.url, tmp_path))) == expected(few_shards)
    starts = [request.start for request in served.requests if request.name == "train-00000.tar"]
    assert starts == [0, 0, 0, 0, num_bytes // 8]


def test_a_server_without_ranges(
    served: Served, few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.fault = lambda request: "whole"
    monkeypatch.setattr(remote, "CHUNK_BYTES", 1000)
    assert read_all(reader_of(data_of(served.url, tmp_path))) == expected(few_shards)
    assert set(served.count().values()) == {1}


def check_one_line(error: pytest.ExceptionInfo[Any], *words: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    assert [word for word in words if word not in text] == []


def test_wrong_bytes_every_time_name_the_shard(served: Served, tmp_path: Path) -> None:
    served.fault = lambda request: "wrong" if request.name == "train-00002.tar" else None
    reader = reader_of(data_of(served.url, tmp_path))
    with pytest.raises(FetchError) as error:
        read_all(reader)
    check_one_line(error, f"{served.url}/train-00002.tar: not the sha256 of its manifest, twice; copy")
    assert served.count()["train-00002.tar"] == 2
    assert tars(tmp_path) == ["train-00000.tar", "train-00001.tar"]


def test_what_has_failed_is_not_tried_again_by_each_thread(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin, "FIRST_PAUSE_S", 0.5)  # all threads have come by then
    served.fault = lambda request: "503" if request.name == "train-00000.tar" else None
    reader = reader_of(data_of(served.url, tmp_path, remote_tries=3))
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(reader.read, i) for i in range(6)]
        outcomes = [each.exception() for each in waiting]
    workdir = f"{served.url}/train-00000.tar"
    why = f"503, message='Service Unavailable', url='{workdir}'"
    line = f"{workdir}: cannot be had after 3 tries ({why}); when it can, the same command goes on"
    assert {str(outcome) for outcome in outcomes} == {line}
    assert served.count()["train-00000.tar"] == 3


def test_what_has_failed_before_is_tried_again(served: Served, few_shards: Path, tmp_path: Path) -> None:
    """As when it was only fetched ahead, long before it is read."""
    served.fault = lambda request: "503" if request.name == "train-00000.tar" else None
    reader = reader_of(data_of(served.url, tmp_path, remote_tries=2))
    with pytest.raises(FetchError, match="after 2 tries"):
        reader.read(0)
    served.fault = lambda request: None
    assert read_all(reader) == expected(few_shards)


@pytest.mark.parametrize("fault", ["403", "404"])
def test_what_may_not_be_read_or_is_not_there_is_asked_for_once(fault: str, few_shards: Path, tmp_path: Path) -> None:
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
        check_one_line(error, f"{served.url}/train-00001.tar: cannot be had (", "see data.dir")
        assert served.count()["train-00001.tar"] == 1


def test_nobody_answers(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/x"
    with pytest.raises(UserError) as error:
        reader_of(data_of(url, tmp_path, remote_tries=2))
    check_one_line(error, f"{url}/manifest.json: cannot be had after 2 tries (")


def test_a_manifest_from_before_serves_where_there_is_no_network(
    few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[str] = []
    monkeypatch.setattr(logging.getLogger("launcher"), "warning", lambda text, *values: words.append(text % values))
    with serve(few_shards) as served:
        data = data_of(served.url, tmp_path)
        read_all(reader_of(data))
    assert read_all(reader_of(data)) == expected(few_shards)
    assert words[-1].endswith("its manifest of an earlier time is used")


def test_a_manifest_that_is_gone_is_an_error_all_the_same(served: Served, tmp_path: Path) -> None:
    data = data_of(served.url, tmp_path)
    reader_of(data)
    served.fault = lambda request: "403"
    with pytest.raises(UserError, match=r"manifest.json: cannot be had \(403"):
        reader_of(data)


def change(folder: Path, dest: Path, **changes: Any) -> None:
    """A copy whose first shard is described otherwise."""
    dest.mkdir()
    for path in folder.iterdir():
        (dest / path.name).write_bytes(path.read_bytes())
    raw = json.loads((folder / MANIFEST_NAME).read_text())
    raw["shards"][0] |= changes
    (dest / MANIFEST_NAME).write_text(json.dumps(raw))


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
def test_something_else_in_place_of_the_manifest(content: bytes, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_NAME).write_bytes(content)
    with serve(tmp_path) as served, pytest.raises((UserError, ShardsError)) as error:
        prepare_data(data_of(served.url, tmp_path / "cache", remote_tries=2), World())
    check_one_line(error, served.url)


def test_a_manifest_or_index_of_no_end(few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    change(few_shards, tmp_path / "far")
    with serve(tmp_path / "far") as served:
        (tmp_path / "far" / "train-00000.index.npy").write_bytes(b"x" * 100_000)
        reader = reader_of(data_of(served.url, tmp_path / "cache"))
        with pytest.raises(FetchError) as error:
            reader.read(0)
        check_one_line(error, "train-00000.index.npy: not the index of 7 images, twice; copy it there again")
        assert reader.folder.traffic.num_bytes < 20_000
        monkeypatch.setattr(remote, "MAX_MANIFEST_BYTES", 1000)
        with pytest.raises(UserError, match="MiB, and no manifest"):
            reader_of(data_of(served.url, tmp_path / "cache"))


def test_an_index_that_is_a_pickle_is_not_read(few_shards: Path, tmp_path: Path) -> None:
    change(few_shards, tmp_path / "far")
    objects = np.empty(7, dtype=object)
    objects[:] = [len] * 7
    np.save(tmp_path / "far" / "train-00000.index.npy", objects, allow_pickle=True)
    with serve(tmp_path / "far") as served, pytest.raises(FetchError, match="not the index of 7 images"):
        reader_of(data_of(served.url, tmp_path / "cache")).read(0)


@pytest.mark.parametrize(
    "name", ["{manifest}", "{manifest}/train-00000.tar", "{manifest}/train-00000.tar.{bytes}.partial", ".room"]
)
def test_a_symbolic_link_in_the_cache_is_not_followed(
    name: str, served: Served, few_shards: Path, tmp_path: Path
) -> None:
    manifest = read_manifest(few_shards)
    link = tmp_path / "cache" / name.format(manifest=manifest.sha256, bytes=manifest.shards[0].num_bytes)
    link.parent.mkdir(parents=True)
    target = tmp_path / "target"
    target.mkdir() if name == "{manifest}" else target.write_bytes(b"mine")
    link.symlink_to(target)
    with pytest.raises((UserError, FetchError)) as error:
        reader_of(data_of(served.url, tmp_path / "cache")).read(0)
    check_one_line(error, str(tmp_path / "cache"))
    assert list(target.iterdir()) == [] if target.is_dir() else target.read_bytes() == b"mine"


def test_a_missing_library_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError) as error:
        prepare_data(data_of("gs://bucket/x", tmp_path), World())
    check_one_line(error, "data.dir: gs://bucket/x: pip install 'launcher[gcs]' first (")


def test_an_unknown_protocol_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        prepare_data(data_of("htp://bucket/x", tmp_path), World())
    check_one_line(error, "data.dir: htp://bucket/x: cannot be read (Protocol not known: htp)")


def test_a_signature_that_a_server_sends_on_is_not_shown(served: Served, tmp_path: Path) -> None:
    served.fault = lambda request: (
        f"http://user:pass@127.0.0.1:{free_port()}/x?X-Amz-Signature=abc123" if request.name.endswith(".tar") else None
    )
    reader = reader_of(data_of(served.url, tmp_path, remote_tries=1))
    with pytest.raises(FetchError) as error:
        reader.read(0)
    check_one_line(error, "train-00000.tar: cannot be had")
    served.fault = lambda request: f"{served.url}/none?X-Amz-Signature=abc123" if request.name != "none" else "403"
    with pytest.raises(UserError) as second:
        reader_of(data_of(served.url, tmp_path / "other", remote_tries=1))
    for text in (str(error.value), str(second.value)):
        assert "abc123" not in text
        assert "pass" not in text
    check_one_line(second, "none?***")
