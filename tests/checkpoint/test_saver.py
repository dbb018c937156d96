from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from launcher.checkpoint import atomic as commit
from launcher.checkpoint import saver as saver_module
from launcher.checkpoint import snapshot
from launcher.checkpoint.saver import Saver, SaveReport
from launcher.checkpoint.snapshot import HostMemory, take_snapshot
from launcher.checkpoint.state import Best, Progress, step_name
from launcher.distributed.strategy import Strategy, read_rng
from launcher.errors import RunError
from launcher.recipe.schema import Checkpoint
from launcher.run.console import NoConsole
from launcher.run.journal import Journal, read_journal
from tests.data.made import plan_of
from tests.harness.runs import Record
from tests.harness.small_run import ADAM, SmallRun, alone, assert_equal, best_at, pointed, restore, saved_steps, silent


@pytest.fixture(scope="module")
def strategy() -> Strategy:
    return alone()


class Said(NoConsole):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@dataclass
class SaverHarness:
    """A small training and its saver."""

    run: SmallRun
    saver: Saver
    path: Path
    console: Said

    @property
    def folder(self) -> Path:
        return self.path / "checkpoints"

    def save(self, step: int, best: Best | None = None) -> None:
        self.saver.save(Progress(step, best))

    def records(self, name: str) -> list[Record]:
        return [record for record in read_journal(self.path) if record["name"] == name]

    def block(self) -> Callable[[], None]:
        """Put a file where the folder is: what a disk that went away does to a save. Call the result to undo it."""
        aside = self.folder.rename(self.path / "aside")
        self.folder.write_text("")

        def undo() -> None:
            self.folder.unlink()
            aside.rename(self.folder)

        return undo


@pytest.fixture
def saving(tmp_path: Path, strategy: Strategy) -> Iterator[SaverHarness]:
    run, journal, console = SmallRun(strategy, ADAM), Journal(tmp_path), Said()
    report = SaveReport(plan_of(), journal, console)
    saver = Saver(tmp_path / "checkpoints", Checkpoint(keep=2, patience=3), run.state, report)
    run.train(1)
    yield SaverHarness(run, saver, tmp_path, console)
    saver.close()
    journal.close()


class BlockedCommit:
    """Holds the writing thread back before a save is committed."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()
        real: Callable[[Path, Path], None] = commit.commit

        def wait(temporary: Path, final: Path) -> None:
            self.reached.set()
            assert self.opened.wait(20)
            real(temporary, final)

        patch.setattr(snapshot, "commit", wait)


def test_training_goes_on_while_a_save_is_written_and_what_is_saved_is_of_its_step(
    saving: SaverHarness, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    saving.save(10, best_at(10))
    saving.saver.settle(Progress(10, best_at(10)))
    blocked = BlockedCommit(monkeypatch)
    before = saving.run.everything()
    saving.save(20, best_at(20))
    assert blocked.reached.wait(20)
    saving.run.train(3)
    saving.saver.poll(23)
    assert (pointed(saving.folder, "last"), pointed(saving.folder, "best")) == (step_name(10), step_name(10))
    assert saving.records(step_name(20)) == []
    blocked.opened.set()
    assert saving.saver.settle(Progress(23, best_at(20))) == Progress(23, best_at(20))
    [record] = saving.records(step_name(20))
    assert (record["step"], record["kind"], record["is_best"]) == (23, "checkpoint", True)
    assert 0 < record["blocked_s"] < record["write_s"]
    assert (pointed(saving.folder, "last"), pointed(saving.folder, "best")) == (step_name(20), step_name(20))
    other = SmallRun(strategy, ADAM)
    assert restore(saving.folder, other.state, silent).step == 20
    assert_equal(other.everything(), before)


def test_a_finished_save_is_written_down_between_two_steps(saving: SaverHarness) -> None:
    saving.save(10)
    while not saving.records(step_name(10)):
        saving.saver.poll(11)
    assert saving.records(step_name(10))[0]["step"] == 11
    assert saving.saver.settle(Progress(12)) == Progress(12)
    assert len(saving.records(step_name(10))) == 1


def test_a_long_wait_for_the_save_before_is_said(saving: SaverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver_module, "LONG_WAIT_S", 0.1)
    for seconds, num in ((0.0, 0), (0.3, 1)):
        blocked = BlockedCommit(monkeypatch)
        saving.save(10)
        threading.Timer(seconds, blocked.opened.set).start()
        saving.saver.settle(Progress(11))
        assert len(saving.records("save_waited")) == num
    assert f"s for {step_name(10)} to be written" in saving.records("save_waited")[0]["message"]


def test_a_save_before_the_one_before_is_settled_is_our_own_mistake(saving: SaverHarness) -> None:
    saving.save(10)
    with pytest.raises(AssertionError, match="not settled"):
        saving.save(20)


def test_a_failing_save_is_loud_and_the_one_before_stands(saving: SaverHarness) -> None:
    saving.save(10)
    saving.saver.settle(Progress(10))
    undo = saving.block()
    for step in (20, 30):
        saving.save(step)
        saving.saver.settle(Progress(step))
    undo()
    failures = [record["message"] for record in saving.records("checkpoint_failed")]
    assert failures == saving.console.lines
    assert [step_name(step) in line for step, line in zip((20, 30), failures, strict=True)] == [True, True]
    assert "Not a directory" in failures[0]
    assert "2 in a row, 3 end the run" in failures[1]
    assert [record["failed_in_a_row"] for record in saving.records("checkpoint_failed")] == [1, 2]
    commit.check_folder(saving.folder / "last")
    assert saved_steps(saving.folder) == [10]


def test_a_save_that_succeeds_begins_the_count_anew(saving: SaverHarness) -> None:
    saving.save(10)
    saving.saver.settle(Progress(10))
    for first in (20, 50):
        undo = saving.block()
        for step in (first, first + 10):
            saving.save(step)
            saving.saver.settle(Progress(step))
        undo()
        saving.save(first + 20)
        saving.saver.settle(Progress(first + 20))
    assert saved_steps(saving.folder) == [40, 70]


def test_patience_with_failing_saves_ends(saving: SaverHarness) -> None:
    saving.save(10)
    saving.saver.settle(Progress(10))
    undo = saving.block()
    for step in (20, 30):
        saving.save(step)
        saving.saver.settle(Progress(step))
    saving.save(40)
    with pytest.raises(RunError, match=r"step-00000040: cannot be written \(.*Not a directory.*\), save 3 in a row"):
        saving.saver.settle(Progress(40))
    undo()


def test_the_last_save_must_not_fail(saving: SaverHarness) -> None:
    saving.save(10)
    saving.saver.settle(Progress(10))
    undo = saving.block()
    saving.save(20)
    with pytest.raises(RunError, match="the last save of all; mend that, and the same command goes on from"):
        saving.saver.settle(Progress(20), is_last=True)
    undo()
    assert len(saving.records("checkpoint_failed")) == 1


def test_a_best_that_could_not_be_saved_is_not_the_best(saving: SaverHarness) -> None:
    progress = saving.saver.settle(Progress(5, best_at(5)))
    saving.saver.save(replace_step(progress, 10))
    progress = saving.saver.settle(replace_step(progress, 19))
    assert progress.best == best_at(5)
    undo = saving.block()
    saving.saver.save(Progress(20, best_at(20)))
    assert saving.saver.settle(Progress(25, best_at(20))) == Progress(25, best_at(5))
    saving.saver.save(Progress(30, best_at(5)))
    assert saving.saver.settle(Progress(35, best_at(5))).best == best_at(5)
    undo()
    saving.saver.save(Progress(40, best_at(40)))
    assert saving.saver.settle(Progress(45, best_at(40))).best == best_at(40)


def replace_step(progress: Progress, step: int) -> Progress:
    return Progress(step, progress.best)


def test_our_own_mistake_is_not_taken_for_a_full_disk(saving: SaverHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "commit", mistake)
        saving.save(10)
        with pytest.raises(ZeroDivisionError):
            saving.saver.settle(Progress(10))
        saving.saver._writing = None


def test_closing_lets_a_save_come_to_its_end(saving: SaverHarness) -> None:
    saving.save(10)
    saving.saver.close()
    assert len(saving.records(step_name(10))) == 1
    commit.check_folder(saving.folder / "last")


def test_memory_is_used_again(strategy: Strategy) -> None:
    run, memory = SmallRun(strategy), HostMemory()
    rngs = [read_rng(strategy.device)]
    places = []
    for step in (1, 2, 3):
        run.train(1)
        files = take_snapshot(run.state, Progress(step), rngs, memory).files
        tensors = {f"{file}/{name}": tensor for file, laid in files.items() for name, tensor in laid.tensors.items()}
        places.append({name: tensor.data_ptr() for name, tensor in tensors.items()})
        assert torch.equal(tensors["model/0.weight"], run.state.model.state_dict()["0.weight"])
    assert places[0] == places[1] == places[2]
    assert set(places[0].values()).isdisjoint(p.data_ptr() for p in run.state.model.parameters())
