"""The cache of shards: which shards may be removed, and a cache without room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from functools import partial
from io import BufferedRandom
from pathlib import Path

import numpy as np
import pytest

from launcher.data.remote import shard_cache
from launcher.data.remote.shard_cache import ShardCache, release
from launcher.errors import FetchError, UserError
from shards.manifest import index_path, read_manifest
from tests.data.remote.far import data_of, expected, reader_of, tars
from tests.data.remote.shard_server import serve

SHARD_BYTES = 1000
NAME = "0" * 64


@pytest.fixture
def cache(tmp_path: Path) -> ShardCache:
    """A cache with room for three shards."""
    return ShardCache(tmp_path / "cache", 3 * SHARD_BYTES + 500)


def tar_of(cache: ShardCache, number: int) -> Path:
    return cache.subfolder(NAME) / f"{number}.tar"


def fill_with(cache: ShardCache, number: int, file: BufferedRandom) -> None:
    index_path(tar_of(cache, number)).write_bytes(b"index")
    file.write(bytes([number]) * SHARD_BYTES)


def open_shard(cache: ShardCache, number: int) -> int:
    return cache.open(tar_of(cache, number), SHARD_BYTES, partial(fill_with, cache, number))[0]


def use(cache: ShardCache, number: int) -> None:
    release(open_shard(cache, number))
    time.sleep(0.01)  # a file's time has steps


def cached(cache: ShardCache) -> list[str]:
    return sorted(path.name for path in cache.subfolder(NAME).iterdir())


def test_the_least_recently_used_shard_is_removed_with_its_index(cache: ShardCache) -> None:
    for number in (0, 1, 2, 0, 3):
        use(cache, number)
    assert cached(cache) == ["0.index.npy", "0.tar", "2.index.npy", "2.tar", "3.index.npy", "3.tar"]


def test_a_shard_in_use_stays(cache: ShardCache) -> None:
    held = open_shard(cache, 0)
    for number in (1, 2, 3, 4):
        use(cache, number)
    assert [name for name in cached(cache) if name.endswith(".tar")] == ["0.tar", "3.tar", "4.tar"]
    assert os.pread(held, 1, 0) == b"\0"
    release(held)
    for number in (1, 2, 3):
        use(cache, number)
    assert [name for name in cached(cache) if name.endswith(".tar")] == ["1.tar", "2.tar", "3.tar"]


def test_a_shard_that_another_process_uses_stays(cache: ShardCache) -> None:
    use(cache, 0)
    program = (
        f"import fcntl; f = open({str(tar_of(cache, 0))!r}); fcntl.flock(f, fcntl.LOCK_SH); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for number in (1, 2, 3):
            use(cache, number)
        assert "0.tar" in cached(cache)
        process.kill()
    use(cache, 4)
    assert "0.tar" not in cached(cache)


def test_a_full_cache_is_waited_for_and_then_raises_fetch_error(
    cache: ShardCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [open_shard(cache, number) for number in range(3)]
    threading.Timer(0.3, release, [held.pop()]).start()
    held.append(open_shard(cache, 3))
    monkeypatch.setattr(shard_cache, "ROOM_WAIT_S", 0.1)
    with pytest.raises(FetchError, match=r"hold shards in use; raise data\.remote_cache_gib, or set"):
        open_shard(cache, 4)
    for descriptor in held:
        release(descriptor)
    use(cache, 4)


def test_a_partial_shard_counts_whole(cache: ShardCache) -> None:
    """And is removed like any other when no process downloads it any more."""
    use(cache, 0)
    begun = tar_of(cache, 1).with_name(f"1.tar.{SHARD_BYTES}.partial")
    begun.write_bytes(b"x")
    time.sleep(0.01)
    for number in (2, 3):
        use(cache, number)
    assert [name for name in cached(cache) if "index" not in name] == [begun.name, "2.tar", "3.tar"]
    use(cache, 4)
    assert not begun.exists()


def test_other_files_are_left_alone(cache: ShardCache) -> None:
    mine = cache.subfolder("mine") / "a.tar"
    mine.write_bytes(b"x" * 5000)
    elsewhere = cache.folder.parent / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "b.tar").write_bytes(b"x" * 5000)
    (cache.folder / ("1" * 64)).symlink_to(elsewhere)
    for number in range(5):
        use(cache, number)
    assert mine.exists()
    assert (elsewhere / "b.tar").exists()


def test_a_shard_that_is_truncated_or_has_lost_its_index_is_downloaded_again(cache: ShardCache) -> None:
    use(cache, 0)
    os.truncate(tar_of(cache, 0), 10)
    use(cache, 0)
    assert tar_of(cache, 0).read_bytes() == b"\0" * SHARD_BYTES
    index_path(tar_of(cache, 0)).unlink()
    use(cache, 0)
    assert index_path(tar_of(cache, 0)).exists()


def test_a_folder_that_cannot_be_created_raises_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file/x: cannot be created \(Not a directory\); set data\.remote_cache"):
        ShardCache(tmp_path / "file", 10).subfolder("x")


def test_a_shard_gets_its_final_name_only_while_nobody_makes_room(cache: ShardCache) -> None:
    """Whoever makes room lists the folder, then looks at each file: one renamed in between has neither name."""
    is_filled, is_counting = threading.Event(), threading.Event()

    def fill(file: BufferedRandom) -> None:
        fill_with(cache, 0, file)
        is_filled.set()
        is_counting.wait()

    with ThreadPoolExecutor(1) as pool:
        opened = pool.submit(cache.open, tar_of(cache, 0), SHARD_BYTES, fill)
        is_filled.wait()
        with cache.locked():
            is_counting.set()
            wait([opened], timeout=0.2)
            assert cached(cache) == ["0.index.npy", f"0.tar.{SHARD_BYTES}.partial"]
        release(opened.result()[0])
    assert cached(cache) == ["0.index.npy", "0.tar"]


def count_bytes(cache: ShardCache) -> int:
    """Bytes of all shards, partial ones counted whole, while none can be added."""
    with cache.locked():
        sizes = [path.stat().st_size for path in cache.folder.glob("*/*.tar")]
        begun = [int(path.suffixes[-2][1:]) for path in cache.folder.glob("*/*.partial")]
    return sum(sizes + begun)


def test_random_reads_through_a_cache_that_is_smaller_than_the_data(few_shards: Path, tmp_path: Path) -> None:
    """Threads of two readers: each image is right, and the cache never exceeds its limit."""
    largest_bytes = max(shard.num_bytes for shard in read_manifest(few_shards).shards)
    cache = ShardCache(tmp_path, 4 * largest_bytes)
    right = expected(few_shards)
    with serve(few_shards) as served:
        data = data_of(served.url, tmp_path, remote_cache_gib=(cache.limit_bytes + 1) / 2**30)
        readers = [reader_of(data), reader_of(data)]

        def read(seed: int) -> None:
            for i in np.random.default_rng(seed).integers(0, 42, 60).tolist():
                sample = readers[seed % 2].read(i)
                assert (sample.content, sample.label) == right[i]
                assert count_bytes(cache) <= cache.limit_bytes

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(read, range(4)))
        assert len(tars(tmp_path)) <= 4
        assert sum(reader.folder.traffic.num_shards for reader in readers) > 12  # some were downloaded again


def test_a_cache_that_is_too_small_raises_user_error_before_any_download(few_shards: Path, tmp_path: Path) -> None:
    with serve(few_shards) as served:
        with pytest.raises(UserError) as error:
            reader_of(data_of(served.url, tmp_path, remote_cache_gib=0.0001), num_local=2)
        assert "data.remote_cache_gib: 0.0001 is too small for 2 ranks of a node and shards of" in str(error.value)
        needed = float(str(error.value).rpartition("at least ")[2])
        reader_of(data_of(served.url, tmp_path, remote_cache_gib=needed), num_local=2).read(0)


FULL = """
import sys
from tests.data.remote.far import *
reader_of(data_of({url!r}, Path({cache!r}))).read(0)
"""


def test_a_full_disk_is_one_line(few_shards: Path, tmp_path: Path) -> None:
    """On a file system of its own, mounted for one process only."""
    unshare = shutil.which("unshare")
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = f"mount -t tmpfs -o size=28k none {disk}"
    if unshare is None or subprocess.run([unshare, "-m", "sh", "-c", mount], capture_output=True).returncode:
        pytest.skip("not allowed to mount a small file system")
    with serve(few_shards) as served:
        program = FULL.format(url=served.url, cache=str(disk / "cache"))
        words = [unshare, "-m", "sh", "-c", f'{mount} && exec "$0" -c "$1"', sys.executable, program]
        ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"launcher.errors.FetchError: {disk}/cache/")
    assert (
        "train-00000.tar: cannot be written (No space left on device); free disk space, lower data.remote_cache_gib"
        in last
    )
