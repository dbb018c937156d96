"""Longest waits of ranks for each other, where no watchdog ends them. Needs no torch."""

from __future__ import annotations

from datetime import timedelta

from launcher.distributed.watchdog.hang import ALLOWANCE_S

JOIN_TIMEOUT = timedelta(minutes=15)
"""For all ranks to meet: no hang is detected before they have. accelerate's default, ten minutes, would not do: it
does not pass that on, and gloo's own is thirty."""

COMM_TIMEOUT = timedelta(hours=4)
"""For rank 0 while it downloads, packs or writes. The collectives of training may have a shorter one."""

FOREVER = timedelta(days=365)


def training_timeout(hang_timeout_s: float | None) -> timedelta:
    """For the collectives of training, NCCL's among them: longer than the watchdog takes to name the rank that hangs.

    NCCL's own is ten minutes, after which it aborts the process. None: they wait for ever.
    """
    if hang_timeout_s is None:
        return FOREVER
    wait_s = 2 * hang_timeout_s + max(ALLOWANCE_S.values())
    return timedelta(seconds=min(wait_s, FOREVER.total_seconds()))
