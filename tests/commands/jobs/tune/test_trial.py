"""A running trial's states and scores, from journals and summaries in its folder, with a stand-in for its training."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import pytest

from launcher.commands.jobs.tune import trial as trial_module
from launcher.commands.jobs.tune.plan import SearchPlan
from launcher.commands.jobs.tune.search import Search
from launcher.commands.jobs.tune.trial import RunningTrial, start_trial
from launcher.errors import EXIT_RESUMABLE, SpawnedRunError
from launcher.run.journal import Journal


@dataclass
class Training:
    """Stands in for SpawnedRanks."""

    ended: bool = False
    error: SpawnedRunError | None = None
    is_killed: bool = False

    def has_ended(self) -> bool:
        if self.error is not None:
            raise self.error
        return self.ended

    def kill(self) -> None:
        self.is_killed = True


def make_plan(folder: Path, metric: str = "accuracy") -> SearchPlan:
    search = Search(search={"optim.name": ("adam", "adamw")})
    return SearchPlan(search, folder, "digits-s", metric, processes=1, parallel=2, device="cpu")


def make_trial(folder: Path, training: Training, metric: str = "accuracy") -> RunningTrial:
    plan = make_plan(folder, metric)
    plan.folder_of(3).mkdir()
    return RunningTrial(plan, 3, 0, cast(Any, training))


def write_summary(trial: RunningTrial, **summary: Any) -> None:
    (trial.plan.folder_of(trial.number) / "summary.json").write_text(json.dumps(summary))


def test_trial_with_a_validation_is_done(tmp_path: Path) -> None:
    training = Training()
    trial = make_trial(tmp_path, training, "loss")
    assert (trial.poll(), trial.score) == ("running", None)
    training.ended = True
    write_summary(trial, status="done", steps_done=66, best={"value": 0.25})
    assert (trial.poll(), trial.score, trial.last_step) == ("done", -0.25, 66)


def test_trial_without_a_validation_has_failed(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, Training(ended=True))
    write_summary(trial, status="done", steps_done=66, best=None)
    assert (trial.poll(), trial.error) == ("failed", "ended without a validation")


@pytest.mark.parametrize(
    ("code", "stop_requested", "state"),
    [(1, False, "failed"), (1, True, "stopped"), (EXIT_RESUMABLE, False, "stopped"), (EXIT_RESUMABLE, True, "stopped")],
)
def test_state_after_an_error_follows_from_exit_code_and_request(
    tmp_path: Path, code: int, stop_requested: bool, state: str
) -> None:
    training = Training(error=SpawnedRunError("rank 0 ended", code))
    trial = make_trial(tmp_path, training)
    trial.stop_requested = stop_requested
    assert (trial.poll(), trial.error, training.is_killed) == (state, "rank 0 ended", True)


def test_scores_are_read_once_and_never_fall(tmp_path: Path) -> None:
    trial = make_trial(tmp_path, Training())
    assert trial.read_scores() == {}
    journal = Journal(trial.plan.folder_of(3), steps_per_epoch=10)

    def validate(step: int, accuracy: float, **fields: Any) -> None:
        journal.write("eval", step, **{"split": "valid", "weights_step": step, "accuracy": accuracy, **fields})

    validate(10, 0.5)
    validate(20, 0.4)
    assert trial.read_scores() == {10: 0.5, 20: 0.5}
    journal.write("event", 10, name="resumed")
    validate(20, 0.4)  # again, after a resume
    validate(30, 0.75)
    validate(30, 0.9, split="test")
    validate(40, 0.9, weights_step=30)  # the best checkpoint, evaluated at the end
    assert trial.read_scores() == {30: 0.75}
    assert trial.read_scores() == {}
    journal.close()


@dataclass
class Machine:
    """Eight cores, two of them kept from this process, and the trainings that were started on them."""

    cores: set[int] = field(default_factory=lambda: {*range(8)} - {3, 7})
    started: list[tuple[set[int], dict[str, str]]] = field(default_factory=list)
    """Cores and environment of each."""

    def start(self, command: list[str], size: int, environment: dict[str, str], output: Path) -> Training:
        self.started.append((self.cores, environment))
        return Training()

    def bind(self, _process: int, cores: Iterable[int]) -> None:
        self.cores = set(cores)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()
    monkeypatch.setattr(trial_module, "SpawnedRanks", found.start)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {*found.cores}, raising=False)
    monkeypatch.setattr("os.sched_setaffinity", found.bind, raising=False)
    for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return found


@pytest.mark.parametrize(
    ("visible", "gpus"), [(None, ["0,1", "2,3"]), ("4,5,6,7", ["4,5", "6,7"])], ids=["all", "some"]
)
def test_trials_at_a_time_share_the_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine, visible: str | None, gpus: list[str]
) -> None:
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    for slot in range(2):
        start_trial(replace(make_plan(tmp_path), processes=2, device="cuda"), 3, {}, slot)
    assert [environment["CUDA_VISIBLE_DEVICES"] for _, environment in machine.started] == gpus


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_trials_at_a_time_share_the_cores(tmp_path: Path, machine: Machine, device: str) -> None:
    """Their loaders take all cores that they may use, on a GPU too."""
    before = machine.cores
    for slot in range(2):
        start_trial(replace(make_plan(tmp_path), processes=2, device=device), 3, {}, slot)
    assert [cores for cores, _ in machine.started] == [{0, 1, 2}, {4, 5, 6}]
    assert [environment["OMP_NUM_THREADS"] for _, environment in machine.started] == ["1", "1"]
    assert ["CUDA_VISIBLE_DEVICES" in environment for _, environment in machine.started] == [device == "cuda"] * 2
    assert machine.cores == before, "the search itself goes on as it was"


def test_a_search_with_fewer_trials_than_slots_leaves_no_core_idle(tmp_path: Path, machine: Machine) -> None:
    start_trial(replace(make_plan(tmp_path), parallel=8), 3, {}, slot=1)
    assert machine.started[0][0] == {4, 5, 6}, "there are only two trials"


def test_the_users_number_of_threads_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    start_trial(make_plan(tmp_path), 3, {}, slot=0)
    assert machine.started[0][1]["OMP_NUM_THREADS"] == "5"
