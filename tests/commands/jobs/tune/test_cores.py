"""Cores shared out to trials, and processes that keep to their share."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from launcher.commands.jobs.tune.cores import share_of_cores, starting_on, usable_cores

PROGRAM = """
import os
from launcher.data.threads import count_workers
from launcher.distributed.world import World
print(sorted(os.sched_getaffinity(0)), count_workers(None, World()))
"""


@pytest.mark.parametrize(
    ("cores", "num_slots", "shares"),
    [
        (range(8), 1, [range(8)]),
        (range(8), 2, [range(4), range(4, 8)]),
        (range(10), 4, [range(2), range(2, 5), range(5, 7), range(7, 10)]),
        ((9, 0, 5, 7), 2, [(0, 5), (7, 9)]),
        (range(2), 4, [[0], [1], [0], [1]]),
        ([3], 2, [[3], [3]]),
    ],
)
def test_every_core_is_in_one_share(cores: range, num_slots: int, shares: list[range]) -> None:
    found = [share_of_cores(cores, slot, num_slots) for slot in range(num_slots)]
    assert found == [frozenset(share) for share in shares]


def test_a_slot_beyond_the_number_has_a_share_of_another() -> None:
    """As when a search resumes with fewer trials than it left unfinished."""
    assert share_of_cores(range(4), 3, 2) == {2, 3}


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no process can be bound to cores here")
def test_a_loader_of_a_trial_starts_threads_for_its_cores_alone() -> None:
    before = usable_cores()
    with starting_on({min(before)}):
        ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert ended.stdout == f"[{min(before)}] 1\n"
    assert usable_cores() == before
