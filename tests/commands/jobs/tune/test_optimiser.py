from __future__ import annotations

import math
from pathlib import Path

import pytest

from launcher.commands.jobs.tune.optimiser import DONE, RUNNING, STATE_NAME, Optimiser
from launcher.commands.jobs.tune.search import Range, Search, Values
from launcher.errors import RunError

SEARCH = Search(
    trials=9,
    start=4,
    search={
        "lr": Range(low=1e-4, high=1.0, log=True),
        "depth": Range(low=2, high=9, whole=True),
        "kind": ("a", "b"),
    },
)
OWN: Values = {"lr": 1e-3, "depth": 5, "kind": "b"}


def score(values: Values) -> float:
    """Best at lr 0.01."""
    return 1 - abs(math.log10(float(values["lr"])) + 2) / 4


def run(folder: Path, num_trials: int) -> list[Values]:
    """Run trials, each with an Optimiser that has nothing but the file."""
    tried = []
    for _ in range(num_trials):
        Optimiser(folder, SEARCH).propose(1)
        optimiser = Optimiser(folder, SEARCH)
        (trial,) = [each for each in optimiser.trials() if each.status == RUNNING]
        optimiser.end(trial.number, score(trial.values), 10)
        tried.append(trial.values)
    return tried


def test_optimiser_resumes_from_its_file_and_finds_better_values(tmp_path: Path) -> None:
    optimiser = Optimiser(tmp_path, SEARCH)
    assert optimiser.trials() == []
    optimiser.add(OWN)
    assert Optimiser(tmp_path, SEARCH).trials()[0].values == OWN
    optimiser.end(0, score(OWN), 10)
    assert optimiser.predict([OWN]) is None  # no model yet
    tried = run(tmp_path, 8)
    trials = Optimiser(tmp_path, SEARCH).trials()
    assert [trial.number for trial in trials] == [*range(9)]
    assert [trial.values for trial in trials] == [OWN, *tried]
    assert {trial.status for trial in trials} == {DONE}
    assert [trial.score for trial in trials] == [pytest.approx(score(trial.values)) for trial in trials]
    assert [trial.proposed_by for trial in trials] == ["recipe", *["Sobol"] * 3, *["model"] * 5]
    assert max(trial.score or 0 for trial in trials[4:]) > score(OWN)
    for values in tried:
        assert 1e-4 <= float(values["lr"]) <= 1
        assert values["depth"] in range(2, 10)
        assert values["kind"] in ("a", "b")
    near, far = Optimiser(tmp_path, SEARCH).predict([{**OWN, "lr": 0.01}, {**OWN, "lr": 1e-4}]) or (0.0, 0.0)
    assert near > far + 0.1
    assert len(Optimiser(tmp_path, SEARCH).trials()) == 9  # predictions add none


def test_failed_and_early_ended_trials_keep_their_status(tmp_path: Path) -> None:
    optimiser = Optimiser(tmp_path, SEARCH)
    optimiser.propose(2)
    optimiser.fail(0, "out of memory")
    optimiser.report(1, 0.25, 5)
    optimiser.end_early(1)
    trials = Optimiser(tmp_path, SEARCH).trials()
    assert [(trial.status, trial.score) for trial in trials] == [("FAILED", None), ("EARLY_STOPPED", 0.25)]


def test_trial_far_below_the_others_should_stop(tmp_path: Path) -> None:
    optimiser = Optimiser(tmp_path, SEARCH)
    optimiser.propose(6)
    for trial in range(5):
        for step in range(1, 21):
            optimiser.report(trial, 0.5 + 0.02 * step, step)
        optimiser.end(trial, 0.9, 20)
    for step in range(1, 15):
        optimiser.report(5, 0.1, step)
    assert optimiser.should_stop(5)


def test_grid_tries_each_combination_once(tmp_path: Path) -> None:
    search = Search(trials=9, search={"depth": Range(low=1, high=3, whole=True), "kind": ("a", "b")})
    optimiser = Optimiser(tmp_path, search)
    optimiser.add({"depth": 2, "kind": "b"})
    optimiser.end(0, 0.5, 10)
    for _ in range(4):  # more than the grid has
        Optimiser(tmp_path, search).propose(2)
    trials = Optimiser(tmp_path, search).trials()
    assert [tuple(trial.values.values()) for trial in trials] == [
        (2, "b"),
        (1, "a"),
        (1, "b"),
        (2, "a"),
        (3, "a"),
        (3, "b"),
    ]
    assert [trial.proposed_by for trial in trials] == ["recipe", *["grid"] * 5]
    assert Optimiser(tmp_path, search).predict([{"depth": 2, "kind": "b"}]) is None


def test_damaged_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / STATE_NAME).write_text('{"_type"')
    with pytest.raises(RunError, match=r"optimiser\.json: damaged"):
        Optimiser(tmp_path, SEARCH)
