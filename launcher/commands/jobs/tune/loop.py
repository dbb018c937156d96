"""The trials of a search: started, followed, ended early or gone on with, until there are as many as wanted."""

from __future__ import annotations

import time
from pathlib import Path

from launcher.commands.jobs.tune.optimiser import RUNNING, Optimiser
from launcher.commands.jobs.tune.report import write_best
from launcher.commands.jobs.tune.search import Search, show_value
from launcher.commands.jobs.tune.trial import RunningTrial, Task, start_trial
from launcher.distributed.comm import ShouldStop
from launcher.errors import RunError, Stopped
from launcher.run.console import Console
from launcher.run.history import is_running

POLL_S = 0.2
FAILURES = 3
"""Trials that may fail before one is done: more, and it is not the values."""
LEFT_S = 60.0
"""A trial whose search was killed saves and ends within that time."""


def run_trials(optimiser: Optimiser, task: Task, search: Search, console: Console, stop: ShouldStop) -> None:
    """Until as many trials as wanted have ended. Raise Stopped when asked to stop: what runs has been saved then."""
    active: dict[int, RunningTrial] = {}
    try:
        while True:
            if len(active) < task.parallel:
                _fill(optimiser, task, search, active, console)
            if not active:
                return
            for running in [*active.values()]:
                if _follow(optimiser, search, running, console):
                    del active[running.slot]
            if stop():
                _stop_all(active)
                raise Stopped("stopped while searching; the same command goes on")
            time.sleep(POLL_S)
    finally:
        for running in active.values():
            running.ranks.kill()


def _fill(optimiser: Optimiser, task: Task, search: Search, active: dict[int, RunningTrial], console: Console) -> None:
    """Give every free slot a trial: first those that a search before this one has left."""
    trials = optimiser.trials()
    numbers = {running.number for running in active.values()}
    waiting = [trial for trial in trials if trial.status == RUNNING and trial.number not in numbers]
    free = [slot for slot in range(task.parallel) if slot not in active]
    wanted = min(len(free) - len(waiting), search.wanted - len(trials))
    if wanted > 0:
        optimiser.propose(wanted)
        waiting = [each for each in optimiser.trials() if each.status == RUNNING and each.number not in numbers]
    for slot, trial in zip(free, waiting, strict=False):
        if task.job is None:  # a job that is still there is found again
            _wait_until_left(task.folder_of(trial.number))
        shown = "  ".join(f"{key} {show_value(value)}" for key, value in trial.values.items())
        console.say(f"trial {trial.number} of {search.wanted}: {shown}")
        active[slot] = start_trial(task, trial.number, trial.values, slot)


def _wait_until_left(folder: Path) -> None:
    """Processes of a search that was killed may still save."""
    until_s = time.monotonic() + LEFT_S
    while is_running(folder, has_ended=False) and time.monotonic() < until_s:
        time.sleep(POLL_S)


def _follow(optimiser: Optimiser, search: Search, running: RunningTrial, console: Console) -> bool:
    """Whether it has ended; the optimiser knows then."""
    state, number = running.look(), running.number
    if search.stop_early and state == "runs":
        for step, score in running.read_new().items():
            optimiser.report(number, score, step)
            if not running.stop_requested and optimiser.should_stop(number):
                running.stop_requested = True
                running.ranks.ask_to_stop()
    if state == "runs":
        return False
    if state == "done" and (best := running.score) is not None:
        optimiser.end(number, best, running.last_step)
        console.say(f"trial {number}: {running.task.metric} {abs(best):.4f}")
        write_best(running.task, optimiser.trials())
    elif state == "stopped" and running.stop_requested:
        optimiser.end_early(number)
        console.say(f"trial {number}: ended early, it does not promise much")
    elif state == "failed":
        optimiser.fail(number, running.why)
        console.say(f"trial {number} failed: {running.why}")
        _check_failures(optimiser, min(FAILURES, search.wanted), running)
    return True


def _check_failures(optimiser: Optimiser, most: int, running: RunningTrial) -> None:
    trials = optimiser.trials()
    if len([trial for trial in trials if trial.status == "FAILED"]) >= most and all(t.score is None for t in trials):
        words = f"{most} trials have" if most > 1 else "the only trial has"
        raise RunError(f"{words} failed and none is done, the last by: {running.why}")


def _stop_all(active: dict[int, RunningTrial]) -> None:
    """They save, and end."""
    for running in active.values():
        running.ranks.ask_to_stop()
    until_s = time.monotonic() + LEFT_S
    while any(running.look() == "runs" for running in active.values()) and time.monotonic() < until_s:
        time.sleep(POLL_S)
