"""The trials of a search: started, followed, ended early, resumed, until there are as many as the search wants."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from launcher.commands.jobs.tune.optimiser import RUNNING, Optimiser
from launcher.commands.jobs.tune.plan import SearchPlan
from launcher.commands.jobs.tune.report import write_best
from launcher.commands.jobs.tune.search import show_value
from launcher.commands.jobs.tune.trial import RunningTrial, start_trial
from launcher.distributed.comm import ShouldStop
from launcher.errors import RunError, Stopped
from launcher.run.console import Console
from launcher.run.lock_file import is_running

POLL_S = 0.2
MAX_FAILURES = 3
"""When so many trials fail before one is done, the cause is not their values."""
SAVE_S = 60.0
"""A trial that was signalled, or whose search was killed, saves and ends within this time."""

Active = dict[int, RunningTrial]
"""Slot -> the trial that runs there."""


def run_trials(plan: SearchPlan, optimiser: Optimiser, console: Console, stop: ShouldStop) -> None:
    """Run trials until the search has all of them. Raise Stopped on request, after the running trials have saved."""
    active: Active = {}
    try:
        while True:
            if len(active) < plan.parallel:
                _fill_slots(plan, optimiser, active, console)
            if not active:
                return
            for trial in list(active.values()):
                if _follow(plan, optimiser, trial, console):
                    del active[trial.slot]
            if stop():
                for trial in active.values():
                    trial.training.request_stop()
                _wait_while(lambda: any(trial.poll() == "running" for trial in active.values()))
                raise Stopped("stopped while searching; the same command resumes the search")
            time.sleep(POLL_S)
    finally:
        for trial in active.values():
            trial.training.kill()


def _fill_slots(plan: SearchPlan, optimiser: Optimiser, active: Active, console: Console) -> None:
    """Start a trial in every free slot; those that an earlier search left unfinished come first."""
    trials = optimiser.trials()
    num_running = sum(trial.status == RUNNING for trial in trials)  # in a slot, or left unfinished
    num_new = min(plan.parallel - num_running, plan.search.num_trials - len(trials))
    if num_new > 0:
        optimiser.propose(num_new)
        trials = optimiser.trials()
    numbers = {trial.number for trial in active.values()}
    waiting = [trial for trial in trials if trial.status == RUNNING and trial.number not in numbers]
    free = [slot for slot in range(plan.parallel) if slot not in active]
    for slot, trial in zip(free, waiting, strict=False):
        if plan.job is None:  # processes of a killed search may still be saving; SlurmTrial finds a job that still runs
            _wait_while(partial(is_running, plan.folder_of(trial.number), has_ended=False))
        shown = "  ".join(f"{key} {show_value(value)}" for key, value in trial.values.items())
        console.say(f"trial {trial.number} of {plan.search.num_trials}: {shown}")
        active[slot] = start_trial(plan, trial.number, trial.values, slot)


def _wait_while(is_saving: Callable[[], bool]) -> None:
    until_s = time.monotonic() + SAVE_S
    while is_saving() and time.monotonic() < until_s:
        time.sleep(POLL_S)


def _follow(plan: SearchPlan, optimiser: Optimiser, trial: RunningTrial, console: Console) -> bool:
    """Report new validations and, once the trial has ended, its result to the optimiser. Whether it has ended."""
    state, number = trial.poll(), trial.number
    if state == "running":
        if plan.search.stop_early:
            _report_scores(optimiser, trial)
        return False
    if state == "done" and (score := trial.score) is not None:
        optimiser.end(number, score, trial.last_step)
        console.say(f"trial {number}: {plan.metric} {plan.sign * score:.4f}")
        write_best(plan, optimiser.trials())
    elif state == "stopped" and trial.stop_requested:
        optimiser.end_early(number)
        console.say(f"trial {number}: ended early, below the median of the other trials")
    elif state == "failed":
        optimiser.fail(number, trial.error)
        console.say(f"trial {number} failed: {trial.error}")
        _check_failures(optimiser, min(MAX_FAILURES, plan.search.num_trials), trial.error)
    return True


def _report_scores(optimiser: Optimiser, trial: RunningTrial) -> None:
    for step, score in trial.read_scores().items():
        optimiser.report(trial.number, score, step)
        if not trial.stop_requested and optimiser.should_stop(trial.number):
            trial.stop_requested = True
            trial.training.request_stop()


def _check_failures(optimiser: Optimiser, max_failures: int, error: str) -> None:
    trials = optimiser.trials()
    num_failed = sum(trial.status == "FAILED" for trial in trials)
    if num_failed >= max_failures and all(trial.score is None for trial in trials):
        which = f"{max_failures} trials have" if max_failures > 1 else "the only trial has"
        raise RunError(f"{which} failed and none is done; the last error: {error}")
