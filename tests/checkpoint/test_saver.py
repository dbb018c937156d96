from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from launcher.checkpoint import atomic, snapshot
from launcher.checkpoint import saver as saver_module
from launcher.checkpoint.saver import Saver
from launcher.checkpoint.state import Best, Progress, step_name
from launcher.distributed.strategy import Strategy
from launcher.errors import RunError
from launcher.recipe.schema import Checkpoint
from launcher.run.run_log import NullLog
from tests.harness.small_run import ADAM, SmallRun, alone, assert_equal, best_at, pointed, restore, saved_steps, silent


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return alone()


class RecordingLog(NullLog):
    """Keeps the records of events and checkpoints, and the lines that are shown."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.lines: list[str] = []

    def event(self, step: int, name: str, message: str = "", *, show: bool = False, **fields: Any) -> None:
        self.records.append({"step": step, "name": name, "message": message, **fields})
        if show:
            self.lines.append(message)

    def checkpoint(self, step: int, **fields: Any) -> None:
        self.records.append({"step": step, **fields})


@dataclass
class SaverHarness:
    """A small training and its saver."""

    run: SmallRun
    saver: Saver
    folder: Path
    log: RecordingLog

    def save(self, step: int, best: Best | None = None) -> None:
        self.saver.save(Progress(step, best))

    def save_and_wait(self, *steps: int) -> None:
        for step in steps:
            self.save(step)
            self.saver.wait(Progress(step))

    def records(self, name: str) -> list[dict[str, Any]]:
        return [record for record in self.log.records if record["name"] == name]

    @contextmanager
    def failing_disk(self) -> Iterator[None]:
        """Saves fail meanwhile: there is a file in place of the folder."""
        aside = self.folder.rename(self.folder.with_name("aside"))
        self.folder.write_text("")
        try:
            yield
        finally:
            self.folder.unlink()
            aside.rename(self.folder)


@pytest.fixture
def saving(tmp_path: Path, strategy: Strategy) -> Iterator[SaverHarness]:
    run, log, folder = SmallRun(strategy, ADAM), RecordingLog(), tmp_path / "checkpoints"
    saver = Saver(folder, Checkpoint(keep=2, patience=3), run.state, log)
    run.train(1)
    yield SaverHarness(run, saver, folder, log)
    saver.close()


class BlockedCommit:
    """Holds the writing thread back before a save is committed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        real: Callable[[Path, Path], None] = atomic.commit

        def wait(temporary: Path, final: Path) -> None:
            self.reached.set()
            assert self.opened.wait(20)
            real(temporary, final)

        patch.setattr(snapshot, "commit", wait)


def test_a_save_is_of_its_step_while_training_continues(
    saving: SaverHarness, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving.save(10, best_at(10))
    saving.saver.wait(Progress(10, best_at(10)))
    blocked = BlockedCommit(monkeypatch)
    before = saving.run.everything()
    saving.save(20, best_at(20))
    assert blocked.reached.wait(20)
    saving.run.train(3)
    saving.saver.log_finished(23)
    assert (pointed(saving.folder, "last"), pointed(saving.folder, "best")) == (step_name(10), step_name(10))
    assert saving.records(step_name(20)) == []
    blocked.opened.set()
    assert saving.saver.wait(Progress(23, best_at(20))) == Progress(23, best_at(20))
    [record] = saving.records(step_name(20))
    assert (record["step"], record["is_best"]) == (23, True)
    assert 0 < record["blocked_s"] < record["write_s"]
    assert (pointed(saving.folder, "last"), pointed(saving.folder, "best")) == (step_name(20), step_name(20))
    other = SmallRun(strategy, ADAM)
    assert restore(saving.folder, other.state, silent).step == 20
    assert_equal(other.everything(), before)


def test_a_finished_save_is_logged_between_two_steps(saving: SaverHarness) -> None:
    saving.save(10)
    while not saving.records(step_name(10)):
        saving.saver.log_finished(11)
    assert saving.records(step_name(10))[0]["step"] == 11
    assert saving.saver.wait(Progress(12)) == Progress(12)
    assert len(saving.records(step_name(10))) == 1


def test_a_long_wait_for_a_save_is_reported(saving: SaverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver_module, "LONG_WAIT_S", 0.1)
    for seconds, num in ((0.0, 0), (0.3, 1)):
        blocked = BlockedCommit(monkeypatch)
        saving.save(10)
        threading.Timer(seconds, blocked.opened.set).start()
        saving.saver.wait(Progress(11))
        assert len(saving.records("save_waited")) == num
    [line] = saving.log.lines
    assert re.fullmatch(rf"training waited \d\.\d s for {step_name(10)} to be written", line)


def test_save_twice_without_wait_asserts(saving: SaverHarness) -> None:
    saving.save(10)
    with pytest.raises(AssertionError, match="call wait before the next save"):
        saving.save(20)


def test_a_failed_save_is_reported_and_the_previous_checkpoint_stays(saving: SaverHarness) -> None:
    saving.save_and_wait(10)
    with saving.failing_disk():
        saving.save_and_wait(20, 30)
    failures = [record["message"] for record in saving.records("checkpoint_failed")]
    assert failures == saving.log.lines
    reason = rf"\(\[Errno 20\] Not a directory: '{saving.folder}/\S+'\)"
    for number, (step, line) in enumerate(zip((20, 30), failures, strict=True), 1):
        assert re.fullmatch(
            rf"{step_name(step)} could not be saved {reason}: failure {number} in a row, 3 end the run; "
            "a resume starts from the beginning",  # the disk has no `last` then
            line,
        )
    assert [record["failed_in_a_row"] for record in saving.records("checkpoint_failed")] == [1, 2]
    atomic.check_folder(saving.folder / "last")
    assert saved_steps(saving.folder) == [10]


def test_a_failed_save_is_reported_with_the_checkpoint_that_stays(
    saving: SaverHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving.save_and_wait(10)

    def fail(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(snapshot, "commit", fail)
    saving.save_and_wait(20)
    [line] = saving.log.lines
    assert line == (
        "step-00000020 could not be saved (full): failure 1 in a row, 3 end the run; a resume starts from step-00000010"
    )


def test_a_successful_save_resets_the_count_of_failures(saving: SaverHarness) -> None:
    saving.save_and_wait(10)
    for first in (20, 50):
        with saving.failing_disk():
            saving.save_and_wait(first, first + 10)
        saving.save_and_wait(first + 20)
    assert saved_steps(saving.folder) == [40, 70]


def test_too_many_failed_saves_end_the_run(saving: SaverHarness) -> None:
    saving.save_and_wait(10)
    with saving.failing_disk():
        saving.save_and_wait(20, 30)
        saving.save(40)
        with pytest.raises(
            RunError,
            match=r"step-00000040: cannot be written \(.*Not a directory.*\), failure 3 in a row; fix that, and the ",
        ):
            saving.saver.wait(Progress(40))


def test_the_last_save_must_not_fail(saving: SaverHarness) -> None:
    saving.save_and_wait(10)
    with saving.failing_disk():
        saving.save(20)
        with pytest.raises(RunError, match=r", the last save; fix that, and the same command resumes from "):
            saving.saver.wait(Progress(20), is_last=True)
    assert len(saving.records("checkpoint_failed")) == 1


def test_the_best_is_a_step_whose_checkpoint_is_on_disk(saving: SaverHarness) -> None:
    progress = saving.saver.wait(Progress(5, best_at(5)))
    saving.saver.save(replace(progress, step=10))
    progress = saving.saver.wait(replace(progress, step=19))
    assert progress.best == best_at(5)
    with saving.failing_disk():
        saving.saver.save(Progress(20, best_at(20)))
        assert saving.saver.wait(Progress(25, best_at(20))) == Progress(25, best_at(5))
        saving.saver.save(Progress(30, best_at(5)))
        assert saving.saver.wait(Progress(35, best_at(5))).best == best_at(5)
    saving.saver.save(Progress(40, best_at(40)))
    assert saving.saver.wait(Progress(45, best_at(40))).best == best_at(40)


def test_a_bug_while_saving_is_raised_once(saving: SaverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """`close` comes after it: the end of the run can be written down."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "commit", fail)
        saving.save(10)
        with pytest.raises(ZeroDivisionError):
            saving.saver.wait(Progress(10))
    saving.saver.close()


def test_close_waits_for_a_save_and_logs_it(saving: SaverHarness) -> None:
    saving.save(10)
    saving.saver.close()
    assert len(saving.records(step_name(10))) == 1
    atomic.check_folder(saving.folder / "last")
