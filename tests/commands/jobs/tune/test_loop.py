"""The loop over trials, with stand-ins for trainings and for the optimiser."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from launcher.commands.jobs.tune import loop
from launcher.commands.jobs.tune.loop import run_trials
from launcher.commands.jobs.tune.optimiser import DONE, RUNNING, Trial
from launcher.commands.jobs.tune.plan import SearchPlan
from launcher.commands.jobs.tune.search import Range, Search
from launcher.commands.jobs.tune.trial import State
from launcher.errors import RunError, Stopped
from launcher.run.console import Console


@dataclass
class FakeOptimiser:
    """Proposes a learning rate of 0.1 x number; ends a trial early once it has reported a score below 0."""

    found: list[Trial] = field(default_factory=list)
    reports: list[tuple[int, float, int]] = field(default_factory=list)

    def trials(self) -> list[Trial]:
        return [*self.found]

    def propose(self, num_trials: int) -> None:
        first = len(self.found)
        self.found += [Trial(n, {"lr": 0.1 * n}, RUNNING, None, "Sobol") for n in range(first, first + num_trials)]

    def report(self, number: int, score: float, step: int) -> None:
        self.reports.append((number, score, step))

    def should_stop(self, number: int) -> bool:
        return any(each[0] == number and each[1] < 0 for each in self.reports)

    def end(self, number: int, score: float, step: int) -> None:
        self.found[number] = replace(self.found[number], status=DONE, score=score)

    def end_early(self, number: int) -> None:
        self.found[number] = replace(self.found[number], status="EARLY_STOPPED", score=-1.0)

    def fail(self, number: int, reason: str) -> None:
        self.found[number] = replace(self.found[number], status="FAILED")


@dataclass
class FakeTrial:
    """Goes through `states`, one a poll, and stays in the last; it stops when that is requested."""

    number: int
    slot: int
    states: list[State]
    scores: list[float] = field(default_factory=list)
    score: float = 0.5
    last_step: int = 66
    stop_requested: bool = False
    error: str = "rank 0 ended with exit code 1"
    stops: int = 0
    kills: int = 0

    @property
    def training(self) -> FakeTrial:
        return self

    def poll(self) -> State:
        return self.states.pop(0) if len(self.states) > 1 else self.states[0]

    def read_scores(self) -> dict[int, float]:
        return {33: self.scores.pop(0)} if self.scores else {}

    def request_stop(self) -> None:
        self.stops += 1
        self.states = ["stopped"]

    def kill(self) -> None:
        self.kills += 1


@dataclass
class LoopHarness:
    """Runs a search of four trials; trial N goes through `states[N]`."""

    plan: SearchPlan
    optimiser: FakeOptimiser
    console: Console
    started: list[FakeTrial] = field(default_factory=list)

    def run(self, *states: Sequence[State], scores: Sequence[float] = (), stop_at: int = 10**6) -> None:
        polls = iter(range(10**6))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "POLL_S", 0.0)
            patch.setattr(loop, "write_best", lambda plan, trials: None)

            def start(plan: SearchPlan, number: int, values: Any, slot: int) -> FakeTrial:
                trial = FakeTrial(number, slot, [*states[number]], [*scores[number : number + 1]])
                self.started.append(trial)
                return trial

            patch.setattr(loop, "start_trial", start)
            run_trials(self.plan, cast(Any, self.optimiser), self.console, lambda: next(polls) >= stop_at)


@pytest.fixture
def harness(tmp_path: Path) -> LoopHarness:
    search = Search(trials=4, stop_early=True, search={"lr": Range(low=0.0, high=1.0)})
    plan = SearchPlan(search, tmp_path, "digits-s", "accuracy", processes=1, parallel=2, device="cpu")
    return LoopHarness(plan, FakeOptimiser(), Console())


def test_every_trial_runs_in_a_free_slot(harness: LoopHarness, capsys: pytest.CaptureFixture[str]) -> None:
    harness.run(["running", "running", "running", "done"], ["done"], ["running", "done"], ["done"])
    assert [(each.number, each.slot) for each in harness.started] == [(0, 0), (1, 1), (2, 1), (3, 1)]
    assert [(each.status, each.score) for each in harness.optimiser.found] == [(DONE, 0.5)] * 4
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == ["trial 0 of 4: lr 0", "trial 1 of 4: lr 0.1", "trial 1: accuracy 0.5000"]


def test_unfinished_trials_of_an_earlier_search_come_first(harness: LoopHarness) -> None:
    harness.optimiser.propose(3)
    harness.optimiser.end(1, 0.25, 66)
    harness.run(["done"], ["done"], ["done"], ["done"])
    assert [each.number for each in harness.started] == [0, 2, 3]


def test_stopped_trial_that_was_not_requested_starts_again(harness: LoopHarness) -> None:
    with pytest.raises(Stopped):
        harness.run(["stopped"], ["done"], ["done"], ["done"], stop_at=8)
    assert [each.number for each in harness.started].count(0) > 1
    assert [each.status for each in harness.optimiser.found] == [RUNNING, DONE, DONE, DONE]


def test_trial_below_the_others_ends_early(harness: LoopHarness, capsys: pytest.CaptureFixture[str]) -> None:
    harness.run(["running"], ["running", "done"], ["done"], ["done"], scores=[-1.0, 1.0])
    assert harness.optimiser.reports == [(0, -1.0, 33), (1, 1.0, 33)]
    assert [each.status for each in harness.optimiser.found] == ["EARLY_STOPPED", DONE, DONE, DONE]
    assert "trial 0: ended early, below the median of the other trials\n" in capsys.readouterr().out


def test_three_failures_before_a_result_end_the_search(harness: LoopHarness) -> None:
    words = "3 trials have failed and none is done; the last error: rank 0 ended with exit code 1"
    with pytest.raises(RunError, match=f"^{words}$"):
        harness.run(["failed"], ["failed"], ["failed"], ["failed"])
    assert len(harness.started) in (3, 4)


def test_failures_after_a_result_do_not_end_the_search(harness: LoopHarness) -> None:
    harness.run(["done"], ["failed"], ["failed"], ["failed"])
    assert [each.status for each in harness.optimiser.found] == [DONE, "FAILED", "FAILED", "FAILED"]


def test_stop_lets_running_trials_save(harness: LoopHarness) -> None:
    with pytest.raises(Stopped, match=r"^stopped while searching; the same command resumes the search$"):
        harness.run(["running"], ["running"], stop_at=2)
    assert [(each.stops, each.kills) for each in harness.started] == [(1, 1)] * 2  # killed only after it has stopped
    assert [each.status for each in harness.optimiser.found] == [RUNNING] * 2
