from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from launcher.checkpoint import async_writer as saver_module
from launcher.checkpoint import atomic as commit
from launcher.checkpoint import snapshot
from launcher.checkpoint.async_writer import Saver, SaveReport
from launcher.checkpoint.restore import Best, Progress, step_name
from launcher.checkpoint.snapshot import HostMemory, take_snapshot
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
class Desk:
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
def desk(tmp_path: Path, strategy: Strategy) -> Iterator[Desk]:
    run, journal, console = SmallRun(strategy, ADAM), Journal(tmp_path), Said()
    report = SaveReport(plan_of(), journal, console)
    saver = Saver(tmp_path / "checkpoints", Checkpoint(keep=2, patience=3), run.state, report)
    run.train(1)
    yield Desk(run, saver, tmp_path, console)
    saver.close()
    journal.close()


class Gate:
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
    desk: Desk, strategy: Strategy, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.save(10, best_at(10))
    desk.saver.settle(Progress(10, best_at(10)))
    gate = Gate(monkeypatch)
    before = desk.run.everything()
    desk.save(20, best_at(20))
    assert gate.reached.wait(20)
    desk.run.train(3)
    desk.saver.poll(23)
    assert (pointed(desk.folder, "last"), pointed(desk.folder, "best")) == (step_name(10), step_name(10))
    assert desk.records(step_name(20)) == []
    gate.opened.set()
    assert desk.saver.settle(Progress(23, best_at(20))) == Progress(23, best_at(20))
    [record] = desk.records(step_name(20))
    assert (record["step"], record["kind"], record["is_best"]) == (23, "checkpoint", True)
    assert 0 < record["blocked_s"] < record["write_s"]
    assert (pointed(desk.folder, "last"), pointed(desk.folder, "best")) == (step_name(20), step_name(20))
    other = SmallRun(strategy, ADAM)
    assert restore(desk.folder, other.state, silent).step == 20
    assert_equal(other.everything(), before)


def test_a_finished_save_is_written_down_between_two_steps(desk: Desk) -> None:
    desk.save(10)
    while not desk.records(step_name(10)):
        desk.saver.poll(11)
    assert desk.records(step_name(10))[0]["step"] == 11
    assert desk.saver.settle(Progress(12)) == Progress(12)
    assert len(desk.records(step_name(10))) == 1


def test_a_long_wait_for_the_save_before_is_said(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saver_module, "LONG_WAIT_S", 0.1)
    for seconds, num in ((0.0, 0), (0.3, 1)):
        gate = Gate(monkeypatch)
        desk.save(10)
        threading.Timer(seconds, gate.opened.set).start()
        desk.saver.settle(Progress(11))
        assert len(desk.records("save_waited")) == num
    assert f"s for {step_name(10)} to be written" in desk.records("save_waited")[0]["message"]


def test_a_save_before_the_one_before_is_settled_is_our_own_mistake(desk: Desk) -> None:
    desk.save(10)
    with pytest.raises(AssertionError, match="not settled"):
        desk.save(20)


def test_a_failing_save_is_loud_and_the_one_before_stands(desk: Desk) -> None:
    desk.save(10)
    desk.saver.settle(Progress(10))
    undo = desk.block()
    for step in (20, 30):
        desk.save(step)
        desk.saver.settle(Progress(step))
    undo()
    failures = [record["message"] for record in desk.records("checkpoint_failed")]
    assert failures == desk.console.lines
    assert [step_name(step) in line for step, line in zip((20, 30), failures, strict=True)] == [True, True]
    assert "Not a directory" in failures[0]
    assert "2 in a row, 3 end the run" in failures[1]
    assert [record["failed_in_a_row"] for record in desk.records("checkpoint_failed")] == [1, 2]
    commit.check_folder(desk.folder / "last")
    assert saved_steps(desk.folder) == [10]


def test_a_save_that_succeeds_begins_the_count_anew(desk: Desk) -> None:
    desk.save(10)
    desk.saver.settle(Progress(10))
    for first in (20, 50):
        undo = desk.block()
        for step in (first, first + 10):
            desk.save(step)
            desk.saver.settle(Progress(step))
        undo()
        desk.save(first + 20)
        desk.saver.settle(Progress(first + 20))
    assert saved_steps(desk.folder) == [40, 70]


def test_patience_with_failing_saves_ends(desk: Desk) -> None:
    desk.save(10)
    desk.saver.settle(Progress(10))
    undo = desk.block()
    for step in (20, 30):
        desk.save(step)
        desk.saver.settle(Progress(step))
    desk.save(40)
    with pytest.raises(RunError, match=r"step-00000040: cannot be written \(.*Not a directory.*\), save 3 in a row"):
        desk.saver.settle(Progress(40))
    undo()


def test_the_last_save_must_not_fail(desk: Desk) -> None:
    desk.save(10)
    desk.saver.settle(Progress(10))
    undo = desk.block()
    desk.save(20)
    with pytest.raises(RunError, match="the last save of all; mend that, and the same command goes on from"):
        desk.saver.settle(Progress(20), is_last=True)
    undo()
    assert len(desk.records("checkpoint_failed")) == 1


def test_a_best_that_could_not_be_saved_is_not_the_best(desk: Desk) -> None:
    progress = desk.saver.settle(Progress(5, best_at(5)))
    desk.saver.save(replace_step(progress, 10))
    progress = desk.saver.settle(replace_step(progress, 19))
    assert progress.best == best_at(5)
    undo = desk.block()
    desk.saver.save(Progress(20, best_at(20)))
    assert desk.saver.settle(Progress(25, best_at(20))) == Progress(25, best_at(5))
    desk.saver.save(Progress(30, best_at(5)))
    assert desk.saver.settle(Progress(35, best_at(5))).best == best_at(5)
    undo()
    desk.saver.save(Progress(40, best_at(40)))
    assert desk.saver.settle(Progress(45, best_at(40))).best == best_at(40)


def replace_step(progress: Progress, step: int) -> Progress:
    return Progress(step, progress.best)


def test_our_own_mistake_is_not_taken_for_a_full_disk(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def mistake(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "commit", mistake)
        desk.save(10)
        with pytest.raises(ZeroDivisionError):
            desk.saver.settle(Progress(10))
        desk.saver._writing = None


def test_closing_lets_a_save_come_to_its_end(desk: Desk) -> None:
    desk.save(10)
    desk.saver.close()
    assert len(desk.records(step_name(10))) == 1
    commit.check_folder(desk.folder / "last")


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
