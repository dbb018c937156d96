"""Kill short runs of the real program again and again, resume with the same command, and compare with a run left alone.

    python -m tests.harness.kills random SHARDS --kills 50        # SIGKILL at any time, resumed by 1, 2 or 4 processes
    python -m tests.harness.kills boundaries SHARDS --every 1     # SIGKILL before each fsync, rename, write ...

Works in the current folder. Each process of a run is a fork of this one, which has everything imported: it begins at
once. What it runs is `launcher.__main__.main`, as rank RANK of WORLD_SIZE. Ends with one line of JSON, or fails.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from launcher.__main__ import main as run_program
from launcher.checkpoint import atomic
from launcher.checkpoint.tensor_file import TensorFile
from launcher.train import main as train
from tests.harness.runs import events, free_port, summary, train_records
from tests.harness.workdir import TEXT

STEPS = 24
SETTINGS = ["backbone={name: lenet}", "optim.ema_decay=0.9", "log.samples=true", "data.cache=none"]
TIMEOUT_S = 120
LOADED = (train,)
"""What the program imports late, torch with it: imported here, no run needs to."""


@dataclass(frozen=True)
class Run:
    """One command, as one or several processes at a time."""

    folder: Path
    overrides: tuple[str, ...]

    def start(self, size: int = 1, prepare: Callable[[], None] = lambda: None) -> list[int]:
        """Process ids, in the order of ranks. `prepare` is called in each of them first."""
        port = str(free_port())
        return [self._fork(rank, size, port, prepare) for rank in range(size)]

    def finish(self) -> None:
        """Run to the end, alone."""
        codes = [wait(pid) for pid in self.start()]
        assert codes == [0], f"{codes}: {self.log.read_text()[-3000:]}"

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def _fork(self, rank: int, size: int, port: str, prepare: Callable[[], None]) -> int:
        pid = os.fork()
        if pid:
            return pid
        try:
            log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.dup2(log, 1)
            os.dup2(log, 2)
            if size > 1:
                world = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
                address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
                os.environ.update({name: str(value) for name, value in world.items()} | address)
            sys.argv = ["launcher", "small.yaml", *SETTINGS, *self.overrides, f"run.dir={self.folder}"]
            prepare()
            run_program()
        finally:
            os._exit(99)


def wait(pid: int) -> int:
    """Exit code, or minus the signal."""
    end_s = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end_s:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f"no end after {TIMEOUT_S} s")


def assert_readable(folder: Path) -> int:
    """Whatever was killed: each checkpoint with a name is whole, and so is what the links point to. The newest step."""
    for link in ("last", "best"):
        path = folder / "checkpoints" / link
        assert not path.is_symlink() or path.exists(), f"{path} points nowhere"
    steps = sorted(folder.glob("checkpoints/step-*"))
    for path in steps:
        atomic.check_folder(path)
    return int(steps[-1].name.removeprefix("step-")) if steps else 0


def assert_same(found: Path, expected: Path, tolerance: float) -> None:
    """Every step once, with the same samples and the same loss; the same figures of evaluation."""
    records, others = train_records(found), train_records(expected)
    assert sorted(records) == sorted(others)
    for step, record in others.items():
        assert records[step]["samples"] == record["samples"], f"{found}: other samples at step {step}"
        assert math.isclose(records[step]["loss"], record["loss"], rel_tol=tolerance), f"{found}: loss at step {step}"
    ended, other = summary(found), summary(expected)
    assert ended["status"] == "done"
    assert math.isclose(ended["test"]["loss"], other["test"]["loss"], rel_tol=max(tolerance, 1e-9))
    for link in ("last", "best"):
        checkpoints = [folder / "checkpoints" / link for folder in (found, expected)]
        assert checkpoints[0].readlink() == checkpoints[1].readlink(), f"{found}: another {link}"
        if tolerance == 0:
            weights = [(path / "model.safetensors").read_bytes() for path in checkpoints]
            assert weights[0] == weights[1], f"{found}: other weights in {link}"


def kill_at_random(kills: int, draw: random.Random) -> dict[str, Any]:
    """Runs that are killed a few times each, every time resumed by another number of processes."""
    overrides = ("train.epochs=8", "checkpoint.every=2st")
    whole = Run(Path("whole"), overrides)
    whole.finish()
    num_runs, resumed = 0, 0
    sizes: list[int] = []
    while len(sizes) < kills:
        run = Run(Path(f"random-{num_runs}"), overrides)
        num_runs += 1
        for _ in range(min(5, kills - len(sizes))):
            size = draw.choice([1, 2, 4])
            if kill_once(run, size, draw):
                sizes.append(size)
        newest = assert_readable(run.folder)
        run.finish()
        if newest and newest < STEPS:
            assert events(run.folder, "resumed")[-1]["step"] == newest
        assert_same(run.folder, whole.folder, 1e-3)
        resumed += len(events(run.folder, "resumed"))
        shutil.rmtree(run.folder)
    return {"kills": len(sizes), "sizes": {n: sizes.count(n) for n in (1, 2, 4)}, "runs": num_runs, "resumes": resumed}


def kill_once(run: Run, size: int, draw: random.Random) -> bool:
    """Start, let a few steps pass, kill one rank and then the others, as torchrun would. False: it had ended before."""
    pids = run.start(size)
    goal = max(train_records(run.folder), default=0) + draw.randrange(5)
    end_s = time.monotonic() + TIMEOUT_S
    is_ended = False
    while max(train_records(run.folder), default=0) < min(goal, STEPS - 1) and not is_ended:
        assert time.monotonic() < end_s, run.log.read_text()[-3000:]
        time.sleep(0.01)
        is_ended = (run.folder / "summary.json").exists()
    time.sleep(draw.uniform(0, 0.15))
    draw.shuffle(pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    codes = [wait(pid) for pid in pids]
    assert set(codes) <= {-signal.SIGKILL, 0}, f"{codes}: {run.log.read_text()[-3000:]}"
    assert_readable(run.folder)
    return -signal.SIGKILL in codes


class Boundaries:
    """Counts every call that changes a disk, in the order they come; kills the process before call number `fatal`.

    A file that is written in one call is first written by half: `fatal` falls on it twice.
    """

    CALLS = ("fsync", "rename", "replace", "symlink", "mkdir", "unlink", "rmdir", "ftruncate")

    def __init__(self, fatal: int, count_file: Path) -> None:
        self._fatal = fatal
        self._count_file = count_file
        self._count = 0

    def install(self) -> None:
        for name in self.CALLS:
            setattr(os, name, self._before(getattr(os, name)))
        setattr(TensorFile, "write", self._torn(TensorFile.write, 1))  # noqa: B010 - a method, for mypy

    def _before(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._pass()
            return call(*arguments, **options)

        return counted

    def _torn(self, write: Callable[..., Any], position: int) -> Callable[..., Any]:
        def torn(*arguments: Any, **options: Any) -> Any:
            self._pass()
            write(*arguments, **options)
            if self._count + 1 == self._fatal:
                os.truncate(arguments[position], Path(arguments[position]).stat().st_size // 2)
            self._pass()

        return torn

    def _pass(self) -> None:
        self._count += 1
        if self._count == self._fatal:
            os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(60)
        if not self._fatal:
            self._count_file.write_text(str(self._count))


def kill_at_boundaries(every: int, draw: random.Random) -> dict[str, Any]:
    """A run killed before its n-th change to the disk, and resumed, for every n-th in `every`."""
    overrides = ("train.epochs=2", "checkpoint.every=2st", "checkpoint.keep=1")
    whole, count_file = Run(Path("whole"), overrides), Path("count").absolute()
    [pid] = whole.start(1, Boundaries(0, count_file).install)
    assert wait(pid) == 0, whole.log.read_text()[-3000:]
    total = int(count_file.read_text())
    points = range(1 + draw.randrange(every), total + 1, every)
    for point in points:
        run = Run(Path(f"boundary-{point}"), overrides)
        [pid] = run.start(1, Boundaries(point, count_file).install)
        code = wait(pid)
        assert code == -signal.SIGKILL, f"{point}: {code}: {run.log.read_text()[-3000:]}"
        newest = assert_readable(run.folder)
        run.finish()
        assert_same(run.folder, whole.folder, 0)
        if newest:
            again = [record["step"] for record in events(run.folder, "resumed")]
            assert again == [newest] or summary(run.folder)["status"] == "done", f"{point}: resumed at {again}"
        shutil.rmtree(run.folder)
    return {"boundaries": total, "kills": len(points)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["random", "boundaries"])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    words = parser.parse_args()
    print(f"seed {words.seed}", flush=True)
    torch.set_num_threads(1)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    Path("small.yaml").write_text(TEXT)
    Path("shards").symlink_to(words.shards.absolute())
    draw = random.Random(words.seed)
    found = kill_at_random(words.kills, draw) if words.what == "random" else kill_at_boundaries(words.every, draw)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
