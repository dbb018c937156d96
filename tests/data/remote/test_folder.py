"""Shards from servers on this machine that fail in every way, through a cache."""

from __future__ import annotations

import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from launcher.data.remote import folder, store
from launcher.errors import FetchError, UserError
from shards.manifest import MANIFEST_NAME, read_manifest
from tests.data.remote.far import change, check_one_line, data_of, expected, read_all, reader_of, tars
from tests.data.remote.shard_server import Request, Served, serve

SPLITS = ("train", "valid", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_images_equal_those_of_the_local_folder(split: str, served: Served, few_shards: Path, tmp_path: Path) -> None:
    reader = reader_of(data_of(served.url, tmp_path), split)
    assert read_all(reader) == expected(few_shards, split)
    assert reader.read(0).place == f"{served.url}/{split}-00000.tar: image 0"
    assert reader.folder.traffic.num_shards == len(reader.shards)
    assert set(served.count().values()) == {1}


def test_any_fsspec_url_is_read(few_shards: Path, tmp_path: Path) -> None:
    assert read_all(reader_of(data_of(f"file://{few_shards}", tmp_path))) == expected(few_shards)


def test_another_run_finds_the_shards_in_the_cache(served: Served, few_shards: Path, tmp_path: Path) -> None:
    data = data_of(served.url + "/", tmp_path)
    read_all(reader_of(data))
    assert read_all(reader_of(data)) == expected(few_shards)
    assert served.count() == {MANIFEST_NAME: 2} | {
        name: 1 for i in range(6) for name in (f"train-0000{i}.tar", f"train-0000{i}.index.npy")
    }


def test_threads_that_read_one_shard_wait_for_one_download(served: Served, few_shards: Path, tmp_path: Path) -> None:
    served.fault = lambda request: "slow"
    reader = reader_of(data_of(served.url, tmp_path), "valid")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.read, [0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 8]))
    assert found[-1].content == expected(few_shards, "valid")[8][0]
    assert set(served.count().values()) == {1}


PROGRAM = """
import sys
from launcher.data.remote import folder
from tests.data.remote.far import *
folder.CHUNK_BYTES = {chunk}
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


def test_a_killed_download_is_resumed_and_its_lock_is_free(served: Served, few_shards: Path, tmp_path: Path) -> None:
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


def test_requests_get_smaller_after_failures(
    served: Served, few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = (few_shards / "train-00000.tar").stat().st_size

    def fault(request: Request) -> str | None:
        return "cut" if request.name == "train-00000.tar" and request.number in (1, 2, 3) else None

    served.fault = fault
    monkeypatch.setattr(folder, "LEAST_BYTES", 1000)
    assert read_all(reader_of(data_of(served.url, tmp_path))) == expected(few_shards)
    starts = [request.start for request in served.requests if request.name == "train-00000.tar"]
    assert starts == [0, 0, 0, 0, num_bytes // 8]


def test_a_server_without_range_requests_is_read(
    served: Served, few_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served.fault = lambda request: "whole"
    monkeypatch.setattr(folder, "CHUNK_BYTES", 1000)
    assert read_all(reader_of(data_of(served.url, tmp_path))) == expected(few_shards)
    assert set(served.count().values()) == {1}


def test_wrong_bytes_twice_raise_fetch_error_with_the_shard(served: Served, tmp_path: Path) -> None:
    served.fault = lambda request: "wrong" if request.name == "train-00002.tar" else None
    reader = reader_of(data_of(served.url, tmp_path))
    with pytest.raises(FetchError) as error:
        read_all(reader)
    check_one_line(error, f"{served.url}/train-00002.tar: its sha256 differs from the manifest's, twice; copy")
    assert served.count()["train-00002.tar"] == 2
    assert tars(tmp_path) == ["train-00000.tar", "train-00001.tar"]


def test_a_failed_download_is_not_tried_again_by_each_waiting_thread(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FIRST_PAUSE_S", 0.5)  # by then all threads wait
    served.fault = lambda request: "503" if request.name == "train-00000.tar" else None
    reader = reader_of(data_of(served.url, tmp_path, remote_tries=3))
    with ThreadPoolExecutor(6) as pool:
        waiting = [pool.submit(reader.read, i) for i in range(6)]
        outcomes = [each.exception() for each in waiting]
    place = f"{served.url}/train-00000.tar"
    why = f"503, message='Service Unavailable', url='{place}'"
    line = f"{place}: cannot be read after 3 tries ({why}); once it can, the same command resumes"
    assert {str(outcome) for outcome in outcomes} == {line}
    assert served.count()["train-00000.tar"] == 3


def test_a_failed_download_is_tried_again_later(served: Served, few_shards: Path, tmp_path: Path) -> None:
    """As when it failed ahead, long before the shard is read."""
    served.fault = lambda request: "503" if request.name == "train-00000.tar" else None
    reader = reader_of(data_of(served.url, tmp_path, remote_tries=2))
    with pytest.raises(FetchError, match="after 2 tries"):
        reader.read(0)
    served.fault = lambda request: None
    assert read_all(reader) == expected(few_shards)


def test_a_huge_index_is_not_downloaded(few_shards: Path, tmp_path: Path) -> None:
    change(few_shards, tmp_path / "far")
    with serve(tmp_path / "far") as served:
        (tmp_path / "far" / "train-00000.index.npy").write_bytes(b"x" * 100_000)
        reader = reader_of(data_of(served.url, tmp_path / "cache"))
        with pytest.raises(FetchError) as error:
            reader.read(0)
        check_one_line(error, "train-00000.index.npy: not an index of 7 images, twice; copy it there again")
        assert reader.folder.traffic.num_bytes < 20_000


def test_an_index_that_is_a_pickle_is_not_read(few_shards: Path, tmp_path: Path) -> None:
    change(few_shards, tmp_path / "far")
    objects = np.empty(7, dtype=object)
    objects[:] = [len] * 7
    np.save(tmp_path / "far" / "train-00000.index.npy", objects, allow_pickle=True)
    with serve(tmp_path / "far") as served, pytest.raises(FetchError, match="not an index of 7 images"):
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
